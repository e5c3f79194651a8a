// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/klog/v2"

	"github.com/embedcri/embedcri/pkg/admin"
	"github.com/embedcri/embedcri/pkg/config"
	"github.com/embedcri/embedcri/pkg/image"
)

func adminSocket(c *config.Config) string { return filepath.Join(c.State, "admin.sock") }

// serveAdmin serves administrators until ctx ends. The returned function waits for its end.
func serveAdmin(ctx context.Context, c *config.Config, s *admin.Server) (wait func(), err error) {
	l, err := listen(adminSocket(c))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(ctx, l); err != nil {
			klog.Background().Error(err, "serve administrators")
		}
	}()
	return func() { cancel(); <-done }, nil
}

func taskCommand(ctx context.Context, c *config.Config, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("task: want pause ID or resume ID")
	}
	client := admin.NewClient(adminSocket(c))
	switch args[0] {
	case "pause":
		return client.Pause(ctx, args[1])
	case "resume":
		return client.Resume(ctx, args[1])
	}
	return fmt.Errorf("task %s: want pause or resume", args[0])
}

func imageCommand(ctx context.Context, c *config.Config, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("image: want ls, pull, rm, import or export")
	}
	client := admin.NewClient(adminSocket(c))
	verb, args := args[0], args[1:]
	switch {
	case verb == "ls" && len(args) == 0:
		images, err := client.Images(ctx)
		if err != nil {
			return err
		}
		return printImages(images)
	case verb == "pull" && len(args) > 0:
		for _, ref := range args {
			bars := newBars(os.Stderr)
			img, err := client.Pull(ctx, ref, bars.show)
			bars.end()
			if err != nil {
				return err
			}
			fmt.Println(img.ID)
		}
		return nil
	case verb == "rm" && len(args) > 0:
		for _, ref := range args {
			if err := client.Remove(ctx, ref); err != nil {
				return err
			}
		}
		return nil
	case verb == "import" && len(args) == 1:
		in := os.Stdin
		if args[0] != "-" {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			in = f
		}
		images, err := client.Import(ctx, in)
		if err != nil {
			return err
		}
		return printImages(images)
	case verb == "export" && len(args) > 1:
		return exportImages(ctx, client, args[0], args[1:])
	}
	return fmt.Errorf("image %s: want ls, pull REF…, rm REF…, import FILE, export FILE REF… (- is standard input or output)", verb)
}

// exportImages writes an archive; a file that could not be written whole is removed.
func exportImages(ctx context.Context, client *admin.Client, path string, refs []string) error {
	if path == "-" {
		return client.Export(ctx, os.Stdout, refs...)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	err = client.Export(ctx, f, refs...)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(path)
	}
	return err
}

func printImages(images []admin.Image) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tID\tSIZE")
	for _, i := range images {
		names := i.Tags
		if len(names) == 0 {
			names = i.Digests
		}
		if len(names) == 0 {
			names = []string{"-"}
		}
		for _, name := range names {
			fmt.Fprintf(w, "%s\t%.19s\t%s\n", name, i.ID, megabytes(int64(i.Size)))
		}
	}
	return w.Flush()
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// bars shows the layers of a pull, redrawn in place on a terminal; elsewhere one line for each stage.
type bars struct {
	w        io.Writer
	terminal bool
	drawn    int // lines to go up
	stage    image.Stage
}

func newBars(f *os.File) *bars {
	st, err := f.Stat()
	return &bars{w: f, terminal: err == nil && st.Mode()&os.ModeCharDevice != 0}
}

const barWidth = 30

func (b *bars) show(p image.Progress) {
	if !b.terminal {
		if p.Stage != b.stage {
			b.stage = p.Stage
			fmt.Fprintf(b.w, "%s: %s %s\n", p.Ref, p.Stage, megabytes(p.Total().Size))
		}
		return
	}
	var out strings.Builder
	if b.drawn > 0 {
		fmt.Fprintf(&out, "\x1b[%dA", b.drawn)
	}
	fmt.Fprintf(&out, "\x1b[2K%s: %s, %v\n", p.Ref, p.Stage, time.Since(p.Started).Round(100*time.Millisecond))
	for _, l := range p.Layers {
		// Downloading fills with -, unpacking overwrites it with =.
		got, done := 0, 0
		if l.Size > 0 {
			got, done = int(barWidth*l.Downloaded/l.Size), int(barWidth*l.Unpacked/l.Size)
		}
		bar := strings.Repeat("=", done) + strings.Repeat("-", max(got-done, 0))
		fmt.Fprintf(&out, "\x1b[2K  %.19s [%-*s] %s of %s\n", l.Digest, barWidth, bar, megabytes(l.Downloaded), megabytes(l.Size))
	}
	b.drawn = len(p.Layers) + 1
	io.WriteString(b.w, out.String())
}

func (b *bars) end() { b.drawn = 0 }
