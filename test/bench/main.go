// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// options are the command line.
type options struct {
	run, peers string
	endpoints  []string
	n, rounds  int
	json, docs string
	list       bool
	verbose    bool
	work       string
	peerBin    string
	pullMB     int
}

func main() {
	klog.SetLogger(klog.NewKlogr().V(10)) // the libraries' words only with -v
	var o options
	flag.StringVar(&o.run, "run", ".", "groups of measures to run, a regular expression")
	flag.StringVar(&o.peers, "peers", "embedcri,crun,containerd", "which runtimes to start and measure, of embedcri, crun (a handler of embedcri), containerd")
	flag.Func("endpoint", "`NAME=unix:///PATH` of a runtime that runs already; may be repeated", func(s string) error {
		if name, addr, ok := strings.Cut(s, "="); !ok || name == "" || !strings.HasPrefix(addr, "unix://") {
			return errors.New("want NAME=unix:///PATH")
		}
		o.endpoints = append(o.endpoints, s)
		return nil
	})
	flag.IntVar(&o.n, "n", 30, "samples of each latency, for each runtime")
	flag.IntVar(&o.rounds, "rounds", 2, "rounds of what takes long: density, logs, pulls")
	flag.StringVar(&o.json, "json", "", "`file` to put results into; what it has of other measures stays")
	flag.StringVar(&o.docs, "docs", "", "Markdown `file` whose generated tables are to be renewed from -json")
	flag.StringVar(&o.work, "dir", "/var/tmp", "`directory` below which the runtimes get theirs")
	flag.StringVar(&o.peerBin, "containerd", "bin/peers", "`directory` of containerd and its shim")
	flag.IntVar(&o.pullMB, "pull-mb", 500, "size of the image of the pull group, in MB")
	flag.BoolVar(&o.list, "list", false, "list the groups of measures")
	flag.BoolVar(&o.verbose, "v", false, "say what is being done")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	defer stop()
	if err := bench(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, o options) (err error) {
	if o.list {
		for _, g := range groups {
			fmt.Printf("%-10s %s\n", g.name, g.help)
		}
		return nil
	}
	pick, err := regexp.Compile(o.run)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	chosen := slices.DeleteFunc(slices.Clone(groups), func(g group) bool { return !pick.MatchString(g.name) })
	r := newResults()
	if o.json != "" {
		if err := r.load(o.json); err != nil {
			return err
		}
	}
	if o.docs != "" && len(chosen) == 0 {
		return r.document(o.docs)
	}
	b, err := newBed(ctx, o, r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.remove()) }()
	for _, g := range chosen {
		started := time.Now()
		b.say("%s: %s", g.name, g.help)
		if err := g.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		b.say("%s took %v", g.name, time.Since(started).Round(time.Second))
		if o.json != "" { // at once: a later group may fail, or be interrupted
			if err := r.save(o.json); err != nil {
				return err
			}
		}
	}
	r.print(os.Stdout)
	if o.docs != "" {
		return r.document(o.docs)
	}
	return nil
}

// group is a set of measures that are taken together.
type group struct {
	name, help string
	run        func(context.Context, *bed) error
}

var groups = []group{
	{"start", "pod start and its end, one at a time, host network and CNI", measureStart},
	{"parallel", "pods and execs, 8 at a time", measureParallel},
	{"exit", "from a container's death to the event, and to its status", measureExit},
	{"exec", "ExecSync, one at a time", measureExec},
	{"density50", "what 50 pods cost: memory, processes, threads, descriptors, lists, idle CPU, restart", density(50)},
	{"density200", "the same with 200 pods", density(200)},
	{"growth", "what a pod costs embedcri among 400 and among 50", growth(50, 400)},
	{"logs", "output of containers", measureLogs},
	{"pull", "images from a registry on loopback", measurePull},
}

// say tells how far the run is.
func (b *bed) say(format string, args ...any) {
	var w io.Writer = os.Stderr
	if !b.o.verbose {
		w = io.Discard
	}
	fmt.Fprintf(w, time.Now().Format("15:04:05 ")+format+"\n", args...)
}
