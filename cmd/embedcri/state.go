// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/containerd/errdefs"

	"github.com/embedcri/embedcri/internal/boot"
	"github.com/embedcri/embedcri/pkg/config"
	"github.com/embedcri/embedcri/pkg/exitbpf"
	"github.com/embedcri/embedcri/pkg/sandbox"
	"github.com/embedcri/embedcri/pkg/store"
)

// stateCommand shows what the next start would find: the records on disk and the exits that the kernel keeps. It is for a node
// whose daemon does not come up, so it asks none and changes nothing.
func stateCommand(_ context.Context, c *config.Config, _ []string) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if _, err := os.Stat(c.RecordDir()); err != nil {
		return fmt.Errorf("no records: %w", err) // opening the store would make some
	}
	records, err := store.Open(c.RecordDir())
	if err != nil {
		return err
	}
	bootID, err := boot.ID()
	if err != nil {
		return err
	}
	pods, containers, err := sandbox.ReadRecords(records, bootID)
	if err != nil {
		return err
	}
	exits, err := exitbpf.Records(c.BPF)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	printPods(w, pods)
	printContainers(w, containers)
	printExits(w, exits, containers)
	return w.Flush()
}

func printPods(w io.Writer, pods []sandbox.PodRecord) {
	slices.SortFunc(pods, func(a, b sandbox.PodRecord) int { return cmp.Compare(a.Metadata.GetName(), b.Metadata.GetName()) })
	fmt.Fprintln(w, "POD\tNAME\tATTEMPT\tSTATE\tNOTE")
	for _, p := range pods {
		m := p.Metadata
		note := problem(p.Err)
		if note == "" && !p.SameBoot {
			note = "of another boot"
		}
		fmt.Fprintf(w, "%.13s\t%s/%s\t%d\t%v\t%s\n", p.ID, m.GetNamespace(), m.GetName(), m.GetAttempt(), p.State, note)
	}
}

func printContainers(w io.Writer, containers []sandbox.ContainerRecord) {
	slices.SortFunc(containers, func(a, b sandbox.ContainerRecord) int {
		return cmp.Or(cmp.Compare(a.PodID, b.PodID), a.Status.CreatedAt.Compare(b.Status.CreatedAt))
	})
	fmt.Fprintln(w, "\nCONTAINER\tPOD\tNAME\tATTEMPT\tSTATE\tPID\tEXIT\tNOTE")
	for _, c := range containers {
		pid, exit := "-", "-"
		if s := c.Status; s.Exit != nil {
			exit = fmt.Sprintf("%d at %s", s.Exit.Code(), s.FinishedAt.Format(time.RFC3339Nano))
		} else if s.Pid != 0 {
			pid = fmt.Sprint(s.Pid)
		}
		note := problem(c.Err)
		if note == "" {
			note = c.Status.Message
		}
		fmt.Fprintf(w, "%.13s\t%.13s\t%s\t%d\t%v\t%s\t%s\t%s\n", c.ID, c.PodID, c.Metadata.GetName(), c.Metadata.GetAttempt(),
			c.Status.State, pid, exit, note)
	}
}

// printExits lists the tracer's slots. One of a container that is on record bears the container's id; the others are execs.
func printExits(w io.Writer, exits []exitbpf.Record, containers []sandbox.ContainerRecord) {
	owner := map[exitbpf.Key]string{}
	for _, c := range containers {
		if k, err := exitbpf.KeyOf(c.ID); err == nil {
			owner[k] = fmt.Sprintf("%.13s", c.ID)
		}
	}
	slices.SortFunc(exits, func(a, b exitbpf.Record) int { return a.Reserved.Compare(b.Reserved) })
	fmt.Fprintln(w, "\nWATCHED\tOF\tPID\tSINCE\tEXIT")
	for _, r := range exits {
		exit := "lives"
		switch {
		case r.Err != nil:
			exit = problem(r.Err)
		case r.Exit != nil:
			exit = fmt.Sprintf("wait status %#x at %s", uint32(r.Exit.Status), r.Exit.At.Format(time.RFC3339Nano))
		}
		of := owner[r.Key]
		if of == "" {
			of = "exec"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", r.Key, of, r.Pid, r.Reserved.Format(time.RFC3339), exit)
	}
}

// problem is err on one line, empty for nil.
func problem(err error) string {
	if err == nil {
		return ""
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}
