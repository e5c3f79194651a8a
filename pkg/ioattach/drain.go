// SPDX-License-Identifier: Apache-2.0

package ioattach

import (
	"context"
	"errors"
	"io"
	"time"
)

// Drain must be called once the process is dead. It moves what the process left in its pipes,
// logs an unterminated last line, lets attach clients end and closes Drained, normally within a
// fraction of a millisecond: an exited process's descriptors are closed before its death can be
// seen (do_exit: exit_files and exit_task_work come before exit_notify), so there is an end to
// read up to. If somebody else still holds a pipe, that one counts as drained when it has been
// silent for DrainIdle, or after DrainMax; it is read further until Close. Drain returns when
// Drained is closed or ctx ends; the draining itself does not depend on ctx. It may be called
// again.
func (st *Streams) Drain(ctx context.Context) {
	st.drain.Do(func() { go st.drainAll() })
	select {
	case <-st.drained:
	case <-ctx.Done():
	}
}

// Drained is closed when all the process has written before its death is in the log.
func (st *Streams) Drained() <-chan struct{} { return st.drained }

func (st *Streams) drainAll() {
	finish := make(chan struct{})
	go func() {
		defer close(finish)
		st.waitSilence()
		for _, s := range st.sources {
			s.flushRest()
		}
	}()
	// Not even a hung log disk holds up the exit for longer.
	late := time.NewTimer(st.hub.opts.DrainMax)
	defer late.Stop()
	select {
	case <-finish:
	case <-late.C:
	}
	st.endClients()
	close(st.drained)
}

// waitSilence sweeps all sources and then waits for those that somebody still holds.
func (st *Streams) waitSilence() {
	var held []*source
	for _, s := range st.sources {
		if !s.sweep() {
			held = append(held, s)
		}
	}
	idle := st.hub.opts.DrainIdle
	since := time.Now()
	until := since.Add(st.hub.opts.DrainMax)
	for _, s := range held {
		for {
			quiet := time.Since(maxTime(since, s.lastTime()))
			if quiet >= idle || time.Now().After(until) {
				break
			}
			t := time.NewTimer(idle - quiet)
			select {
			case <-s.ended:
				t.Stop()
			case <-t.C:
				continue
			}
			break
		}
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (s *source) lastTime() time.Time { return time.Unix(0, s.lastRead.Load()) }

// sweep moves what is in the pipe now, which is all the dead process can have left there, and
// says if that was the end of the stream.
func (s *source) sweep() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.st.hub.borrow()
	if l == nil {
		return true
	}
	defer func() { s.st.hub.lanes <- l }()
	if _, err := s.sweepLocked(l); errors.Is(err, io.EOF) {
		s.finishLocked(l)
		return true
	}
	return false
}

// sweepLocked pumps as much as the pipe can have held when it began, and returns what pump did
// last and how much it was in all.
func (s *source) sweepLocked(l *lane) (total int, err error) {
	for total < s.room {
		n, err := s.pump(l)
		total += n
		if err != nil && !errors.Is(err, errPaused) {
			return total, err
		}
	}
	return total, nil
}

// flushRest logs the unterminated last line of a source that has not ended.
func (s *source) flushRest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.st.logf == nil {
		return
	}
	l := s.st.hub.borrow()
	if l == nil {
		return
	}
	defer func() { s.st.hub.lanes <- l }()
	s.st.logf.flush(l, s)
}
