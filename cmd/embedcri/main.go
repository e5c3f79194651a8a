// SPDX-License-Identifier: Apache-2.0

// Command embedcri is a CRI runtime: one daemon that holds the processes of all pods of a node itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/pkg/config"
)

// Version is the semantic version, set by the linker (see Makefile).
var Version = "0.1.0-dev"

// command is a subcommand.
type command struct {
	name, args, help string
	run              func(ctx context.Context, c *config.Config, args []string) error
}

func commands() []command {
	return []command{
		{"run", "", "serve the CRI (the default)", runDaemon},
		{"config", "default|show|check", "print or check the configuration", configCommand},
		{"image", "ls|pull|rm|import|export", "images of the running daemon", imageCommand},
		{"task", "pause|resume ID", "freeze a container of the running daemon, or thaw it", taskCommand},
		{"state", "", "show what is on record of pods and containers, and in the kernel of exits; needs no daemon", stateCommand},
		{"check", "", "say what this machine has and lacks", checkCommand},
		{"cleanup", "", "remove all that is kept in the kernel: exit tracer, keeper, pins (containers must be gone)", cleanupCommand},
		{"version", "", "print the version", func(context.Context, *config.Config, []string) error {
			fmt.Println(Version)
			return nil
		}},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "embedcri:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage")

func run(ctx context.Context, args []string) error {
	// The file is read before the flags are, so that flags win: a first pass looks only for -config.
	c := config.Default()
	f := flag.NewFlagSet("embedcri", flag.ContinueOnError)
	file := f.String("config", "", "TOML `file` (default "+config.DefaultFile+", if it exists)")
	c.Flags(f)
	logFlags(f)
	f.Usage = func() { usage(f) }
	name := "run"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	}
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if err := c.Load(*file); err != nil {
		return err
	}
	if err := f.Parse(args); err != nil {
		return errUsage
	}
	cmds := commands()
	i := slices.IndexFunc(cmds, func(c command) bool { return c.name == name })
	if i < 0 {
		fmt.Fprintf(os.Stderr, "embedcri: unknown command %q\n", name)
		usage(f)
		return errUsage
	}
	return cmds[i].run(ctx, c, f.Args())
}

func usage(f *flag.FlagSet) {
	w := f.Output()
	fmt.Fprintln(w, "Usage: embedcri [command] [flags] [arguments]")
	fmt.Fprintln(w)
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-30s %s\n", strings.TrimSpace(c.name+" "+c.args), c.help)
	}
	fmt.Fprintln(w, "\nFlags:")
	f.PrintDefaults()
}
