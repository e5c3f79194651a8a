// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// logBytes is what each container writes, in lines of 100 bytes.
const logBytes = 200 << 20

// measureLogs has a container write, as fast as its pipe takes it, and waits until all of it is in the log.
func measureLogs(ctx context.Context, b *bed) error {
	for _, w := range []struct {
		id, title string
		write     int // bytes of one write(2)
	}{
		{"big", "writes of 64 KiB", 64 << 10},
		{"lines", "a write for each line", 100},
	} {
		err := b.turns(ctx, b.o.rounds, func(_ int, p *peer) error {
			if p.handler != "" {
				return nil // streams do not depend on it
			}
			return p.writeLog(ctx, w.id, w.title, w.write)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *peer) writeLog(ctx context.Context, id, title string, write int) error {
	const line, lines = 100, logBytes / 100
	pids, err := p.processes(ctx)
	if err != nil {
		return err
	}
	cpu := cpuOf(pids)
	began := time.Now()
	d, _, err := p.launch(ctx, true, nil, "/bin/stream", "lines", strconv.Itoa(lines), strconv.Itoa(line), strconv.Itoa(write))
	if err != nil {
		return err
	}
	for {
		s, err := p.status(ctx, d.container)
		if err != nil {
			return err
		}
		if s.State == runtimeapi.ContainerState_CONTAINER_EXITED {
			if s.ExitCode != 0 {
				return fmt.Errorf("the writer ends with %d: %s", s.ExitCode, s.Message)
			}
			break
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	took := time.Since(began)
	if pids, err = p.processes(ctx); err != nil { // with the shim of the container, which was not there before
		return err
	}
	r := p.bed.results
	r.add("logs/"+id, "log, 100-byte lines, "+title, "MB/s", p.name, logBytes/1e6/took.Seconds())
	r.add("logs/"+id+"/cpu", "– runtime's CPU for 200 MiB", "s", p.name, (cpuOf(pids)-cpu)/1e9)
	split, err := splitLines(d.log(), lines)
	r.add("logs/"+id+"/split", "– lines split", "", p.name, float64(split))
	return errors.Join(err, p.removePod(ctx, d.id), os.RemoveAll(d.config.LogDirectory))
}

// splitLines counts the lines marked as parts, and fails if lines are missing.
func splitLines(log string, want int) (split int, err error) {
	f, err := os.Open(log)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	whole := 0
	for r := bufio.NewReaderSize(f, 1<<20); ; {
		line, err := r.ReadSlice('\n')
		switch {
		case bytes.Contains(line[:min(len(line), 60)], []byte(" stdout P ")):
			split++
		case len(line) > 0:
			whole++
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return split, err
		}
	}
	if whole != want {
		return split, fmt.Errorf("%s has %d lines of %d", log, whole, want)
	}
	return split, nil
}
