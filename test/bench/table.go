// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// rows are the table's lines, the first of which is its head: medians, and the ratio of embedcri's to containerd's.
func (r *results) rows(only func(*measure) bool) [][]string {
	peers := r.peers(only)
	head := append([]string{"measure (median)", "unit"}, peers...)
	rows := [][]string{append(head, "ratio", "target", "")}
	for _, m := range r.Measures {
		if !only(m) {
			continue
		}
		row := []string{m.Title, m.Unit}
		for _, p := range peers {
			cell := ""
			if q := m.Values[p]; q != nil {
				cell = figure(q.Median)
			}
			row = append(row, cell)
		}
		ratio, goal, met := "", "", ""
		ours, theirs := m.Values["embedcri"], m.Values["containerd"]
		if ours != nil && theirs != nil && theirs.Median != 0 {
			ratio = figure(ours.Median / theirs.Median)
		}
		if t, ok := targets[m.ID]; ok && ours != nil {
			goal = t.String()
			met = "missed"
			if t.met(ours.Median, theirs.median(), m.Values[bare].median()) {
				met = "met"
			}
		}
		rows = append(rows, append(row, ratio, goal, met))
	}
	return rows
}

// figure writes a number with three significant digits.
func figure(v float64) string {
	if v == 0 {
		return "0"
	}
	digits := max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
	return strconv.FormatFloat(v, 'f', min(digits, 4), 64)
}

// print writes what was measured in this run, aligned.
func (r *results) print(w io.Writer) {
	rows := r.rows(func(m *measure) bool { return m.fresh })
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i < 2 {
				line.WriteString(cell + pad + "  ")
			} else {
				line.WriteString(pad + cell + "  ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// document renews the tables of a Markdown file: what stands between <!-- bench: PREFIX --> and <!-- end -->, with the measures
// whose ids begin with PREFIX.
func (r *results) document(file string) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	rest := string(old)
	for {
		before, after, ok := strings.Cut(rest, "<!-- bench:")
		out.WriteString(before)
		if !ok {
			break
		}
		prefixes, after, ok := strings.Cut(after, "-->")
		if !ok {
			return fmt.Errorf("%s: a <!-- bench: has no -->", file)
		}
		table, tail, ok := strings.Cut(after, "<!-- end -->")
		if !ok {
			return fmt.Errorf("%s: a <!-- bench: has no <!-- end -->", file)
		}
		fmt.Fprintf(&out, "<!-- bench:%s-->", prefixes)
		if of := strings.Fields(prefixes); slices.ContainsFunc(r.Measures, func(m *measure) bool { return m.in(of) }) {
			out.WriteByte('\n')
			r.markdown(&out, of)
		} else {
			out.WriteString(table) // of an earlier run: nothing of it has been measured since
		}
		out.WriteString("<!-- end -->")
		rest = tail
	}
	return os.WriteFile(file, out.Bytes(), 0o644)
}

// in tells whether a measure is one of those that begin with a prefix.
func (m *measure) in(prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return m.ID == p || strings.HasPrefix(m.ID, p+"/") })
}

func (r *results) markdown(w io.Writer, prefixes []string) {
	for i, row := range r.rows(func(m *measure) bool { return m.in(prefixes) }) {
		fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintf(w, "|%s\n", strings.Repeat(" --- |", len(row)))
		}
	}
}
