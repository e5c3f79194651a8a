// SPDX-License-Identifier: Apache-2.0

// Command demo shows what embedcri is: it starts a daemon of its own, runs a pod on an image pulled from a registry on loopback,
// shows its log, an exec and its network, kills the daemon, lets a container exit meanwhile, and shows that nothing was lost. It
// cleans up after itself. Run it by `make demo`.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/embedcri/embedcri/internal/testenv"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, testenv.Slow(5*time.Minute))
	defer cancel()
	s := &stage{ctx: ctx}
	err := s.run()
	if cerr := s.cleanUp(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("clean up: %w", cerr))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "\n%s %v\n", red("demo failed:"), err)
		os.Exit(1)
	}
	fmt.Printf("\n%s nothing of it is left on this machine.\n", green("Done."))
}

// run is the play.
func (s *stage) run() error {
	for _, act := range []struct {
		title string
		play  func() error
	}{
		{"A registry on loopback, and a daemon", s.start},
		{"Pull an image and run a pod", s.runPod},
		{"Its log, in the kubelet's format", s.showLog},
		{"A command inside (ExecSync)", s.exec},
		{"The pod answers on its own address", s.ask},
		{"What runs for this pod: its containers, and nothing else", s.processes},
		{"Now the daemon dies (SIGKILL), and a container exits meanwhile", s.killAndExit},
		{"The daemon comes back", s.restart},
		{"What it knows about the exit it did not see", s.showExit},
	} {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		fmt.Printf("\n%s\n", bold(act.title))
		if err := act.play(); err != nil {
			return err
		}
	}
	return nil
}

func paint(code, text string) string {
	if st, err := os.Stdout.Stat(); err != nil || st.Mode()&os.ModeCharDevice == 0 || os.Getenv("NO_COLOR") != "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func bold(t string) string  { return paint("1", "▌ "+t) }
func green(t string) string { return paint("32", t) }
func red(t string) string   { return paint("31", t) }
func dim(t string) string   { return paint("2", t) }

// say prints one line under an act's title.
func say(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }
