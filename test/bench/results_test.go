// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestQuantile(t *testing.T) {
	for _, tc := range []struct {
		samples []float64
		q, want float64
	}{
		{[]float64{7}, 0.5, 7}, {[]float64{3, 1, 2}, 0.5, 2}, {[]float64{4, 1}, 0.5, 2.5}, {[]float64{1, 2, 3, 4, 5}, 0.9, 4.6}, {[]float64{1, 2}, 1, 2},
	} {
		if got := quantile(tc.samples, tc.q); got != tc.want {
			t.Errorf("quantile(%v, %v) = %v, want %v", tc.samples, tc.q, got, tc.want)
		}
	}
}

func TestFigure(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.01234: "0.0123", 1.005: "1.00", 12.34: "12.3", 123.4: "123", 4997.2: "4997", -2.5: "-2.50"} {
		if got := figure(v); got != want {
			t.Errorf("figure(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestTargets(t *testing.T) {
	for _, tc := range []struct {
		t                target
		ours, other, own float64
		want             bool
	}{
		{target{zero: true}, 0, 1, 1, true}, {target{zero: true}, 1, 1, 1, false},
		{target{max: 5}, 5, 1, 1, true}, {target{max: 5}, 5.1, 1, 1, false},
		{target{min: 5}, 5, 1, 1, true}, {target{min: 5}, 4.9, 1, 1, false},
		{target{ratio: 0.5}, 5, 10, 1, true}, {target{ratio: 0.5}, 6, 10, 1, false},
		{target{atLeast: 2}, 20, 10, 1, true}, {target{atLeast: 2}, 19, 10, 1, false},
		{target{ratio: 0.5, over: 15}, 59, 150, 45, true}, {target{ratio: 0.5, over: 15}, 61, 150, 45, false},
		{target{ratio: 0.5}, 5, (*quantity)(nil).median(), 1, false}, // not measured
	} {
		if got := tc.t.met(tc.ours, tc.other, tc.own); got != tc.want {
			t.Errorf("%v met by %v, containerd %v, runc %v: %v", tc.t, tc.ours, tc.other, tc.own, got)
		}
	}
}

// TestResults takes samples, prints them, stores them, and renews the table of a document from the file.
func TestResults(t *testing.T) {
	dir := t.TempDir()
	file, doc := filepath.Join(dir, "bench.json"), filepath.Join(dir, "doc.md")
	r := newResults()
	for i := range 3 {
		r.add("exec", "ExecSync true", "ms", "embedcri", float64(10+i))
		r.add("exec", "ExecSync true", "ms", "containerd", float64(20+2*i))
		r.add("pull", "pull", "s", "embedcri", 3)
	}
	var out bytes.Buffer
	r.print(&out)
	if lines := strings.Split(out.String(), "\n"); len(lines) < 3 || strings.Join(strings.Fields(lines[1]), " ") != "ExecSync true ms 11.0 22.0 0.500 ≤ 0.6 × met" {
		t.Errorf("printed:\n%s", &out)
	}
	if err := r.save(file); err != nil {
		t.Fatal(err)
	}
	const text = "before\n<!-- bench: exec -->\nold\n<!-- end -->\nafter\n"
	if err := os.WriteFile(doc, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	again := newResults()
	if err := again.load(file); err != nil {
		t.Fatal(err)
	}
	for range 2 { // what was generated is replaced
		if err := again.document(doc); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	got := string(b)
	if !strings.HasPrefix(got, "before\n<!-- bench: exec -->\n| measure") || !strings.HasSuffix(got, "\n<!-- end -->\nafter\n") ||
		strings.Contains(got, "old") || strings.Count(got, "ExecSync true") != 1 || strings.Contains(got, "pull") {
		t.Errorf("document:\n%s", got)
	}
	// A measure that is taken again replaces the earlier one's samples; others stay.
	again.add("exec", "ExecSync true", "ms", "embedcri", 5)
	if q := again.index["exec"].Values["embedcri"]; q.Median != 5 || len(again.Measures) != 2 {
		t.Errorf("%+v, %d measures", q, len(again.Measures))
	}
}
