// SPDX-License-Identifier: Apache-2.0

package critest

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// suiteReport is what is used of ginkgo's JSON report: a list of suites, here one.
// https://pkg.go.dev/github.com/onsi/ginkgo/v2/types#Report
type suiteReport struct {
	RunTime                    time.Duration
	SpecialSuiteFailureReasons []string
	SpecReports                []specReport
}

type specReport struct {
	ContainerHierarchyTexts []string
	LeafNodeType            string
	LeafNodeText            string
	State                   string // passed, failed, panicked, timedout, interrupted, aborted, skipped, pending
	RunTime                 time.Duration
	Failure                 struct {
		Message  string
		Location struct {
			FileName   string
			LineNumber int
		}
	}
}

// name is the full name of a spec, as -ginkgo.focus sees it; of a suite node (BeforeSuite) its type.
func (s *specReport) name() string {
	return strings.TrimSpace(strings.Join(append(slices.Clone(s.ContainerHierarchyTexts), s.LeafNodeText), " ") + nodeType(s.LeafNodeType))
}

func nodeType(t string) string {
	if t == "It" {
		return ""
	}
	return " [" + t + "]"
}

// result is one run of the suite, judged.
type result struct {
	passed  int
	failed  []string // what failed, with where and why
	skipped []string // names
	wrong   []string // skips and exceptions that contradict the list
	reasons map[string]int
	took    time.Duration
}

// ok says whether the run is a success.
func (r *result) ok() bool { return len(r.failed) == 0 && len(r.wrong) == 0 }

func (r *result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d passed, %d failed, %d skipped in %v", r.passed, len(r.failed), len(r.skipped), r.took.Round(time.Second))
	for _, reason := range slices.Sorted(maps.Keys(r.reasons)) {
		fmt.Fprintf(&b, "\n  skipped %d: %s", r.reasons[reason], reason)
	}
	for _, w := range r.wrong {
		fmt.Fprintf(&b, "\n  WRONG: %s", w)
	}
	for _, f := range r.failed {
		fmt.Fprintf(&b, "\n  FAILED: %s", f)
	}
	return b.String()
}

// readReport judges the report that critest wrote. With part, only some specs were asked for, so that others are left out rightly.
func readReport(file string, list []exception, part bool) (*result, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("critest left no report: %w", err)
	}
	var suites []suiteReport
	if err := json.Unmarshal(b, &suites); err != nil {
		return nil, fmt.Errorf("read critest's report: %w", err)
	}
	r := &result{reasons: map[string]int{}}
	for _, suite := range suites {
		r.took += suite.RunTime
		r.failed = append(r.failed, suite.SpecialSuiteFailureReasons...)
		for _, s := range suite.SpecReports {
			r.judge(&s, excuse(list, s.name()), part)
		}
	}
	if r.passed == 0 {
		r.wrong = append(r.wrong, "no spec has passed")
	}
	return r, nil
}

func (r *result) judge(s *specReport, excused *exception, part bool) {
	name := s.name()
	switch {
	case s.State == "passed" && s.LeafNodeType != "It":
		// BeforeSuite and the like count only when they fail.
	case s.State == "passed":
		r.passed++
		if excused != nil {
			r.wrong = append(r.wrong, fmt.Sprintf("%s: has run, although the list says: %s", name, excused.reason))
		}
	case s.State == "skipped" && s.Failure.Message == "" && (part || isBenchmark(name)):
		// Not asked for.
	case s.State == "skipped" && excused != nil:
		r.skipped = append(r.skipped, name)
		r.reasons[excused.reason]++
	case s.State == "skipped", s.State == "pending":
		r.skipped = append(r.skipped, name)
		r.wrong = append(r.wrong, fmt.Sprintf("%s: %s without being listed: %q", name, s.State, s.Failure.Message))
	default:
		at := s.Failure.Location
		// What follows the error's text is a dump of its value.
		why, _, _ := strings.Cut(strings.TrimSpace(s.Failure.Message), "\n    {\n")
		r.failed = append(r.failed, fmt.Sprintf("%s: %s at %s:%d after %v:\n    %s", name, s.State, filepath.Base(at.FileName), at.LineNumber,
			s.RunTime.Round(time.Millisecond), strings.ReplaceAll(why, "\n", "\n    ")))
	}
}

// isBenchmark tells benchmarks, which critest leaves out by itself, by the same word as it does.
func isBenchmark(name string) bool { return strings.Contains(name, "benchmark") }
