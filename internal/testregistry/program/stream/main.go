// SPDX-License-Identifier: Apache-2.0

// Command stream is the container process of tests that look at streams: it writes what can be checked byte for byte, and serves
// ports that tell a half-closed connection from a closed one.
//
//	stream lines N SIZE PER [PAUSE-US]   N numbered lines of SIZE bytes, in writes of up to PER bytes, with a pause every 64 KiB
//	stream random N PER SEED [PAUSE-US]  N bytes of a generator that Go's math/rand/v2 has too, likewise
//	stream flood                         writes zeros until it is killed
//	stream serve ADDRESS                 echo, for each connection until its end, and then the end
//	stream sum ADDRESS                   reads each connection to its end, then answers with the number of bytes
//
// If $STREAM_WAIT is set, nothing happens before that file exists, so that a test can start several at once.
package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	var err error
	if file := os.Getenv("STREAM_WAIT"); file != "" {
		for _, err = os.Stat(file); err != nil; _, err = os.Stat(file) {
			time.Sleep(time.Millisecond)
		}
	}
	switch os.Args[1] {
	case "lines":
		err = lines(number(2), number(3), number(4), pause())
	case "random":
		err = random(number(2), number(3), uint64(number(4)), pause())
	case "flood":
		for zeros := make([]byte, 64<<10); err == nil; {
			_, err = os.Stdout.Write(zeros)
		}
	case "serve":
		err = serve(os.Args[2], echo)
	case "sum":
		err = serve(os.Args[2], sum)
	default:
		usage()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stream:", err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: stream lines|random|flood|serve|sum ...")
	os.Exit(2)
}

func number(i int) int {
	if i >= len(os.Args) {
		usage()
	}
	n, err := strconv.Atoi(os.Args[i])
	if err != nil {
		usage()
	}
	return n
}

// pause is the optional last argument of those that write.
func pause() time.Duration {
	if len(os.Args) < 6 {
		return 0
	}
	return time.Duration(number(5)) * time.Microsecond
}

// lines writes "0000000000 xxx…\n", "0000000001 xxx…\n" and so on.
func lines(n, size, per int, pause time.Duration) error {
	line := make([]byte, size)
	for i := range line {
		line[i] = 'x'
	}
	line[10], line[size-1] = ' ', '\n'
	buf := make([]byte, 0, per+size)
	for i := range n {
		v := i
		for d := 9; d >= 0; d-- {
			line[d] = byte('0' + v%10)
			v /= 10
		}
		buf = append(buf, line...)
		for len(buf) >= per {
			if err := write(buf[:per], pause); err != nil {
				return err
			}
			buf = append(buf[:0], buf[per:]...)
		}
	}
	return write(buf, 0)
}

// unpaused is what has been written since the last pause.
var unpaused int

func write(b []byte, pause time.Duration) error {
	if len(b) == 0 {
		return nil
	}
	_, err := os.Stdout.Write(b)
	if unpaused += len(b); unpaused >= 64<<10 && pause > 0 {
		unpaused = 0
		time.Sleep(pause)
	}
	return err
}

// random writes the bytes of rand.NewChaCha8 seeded with seed, any value and no structure, and no newline at the end.
func random(n, per int, seed uint64, pause time.Duration) error {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	src := rand.NewChaCha8(key)
	buf := make([]byte, per)
	for n > 0 {
		b := buf[:min(per, n)]
		if _, err := src.Read(b); err != nil {
			return err
		}
		if err := write(b, pause); err != nil {
			return err
		}
		n -= len(b)
	}
	return nil
}

func serve(addr string, handle func(*net.TCPConn)) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("listening on", l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go handle(c.(*net.TCPConn))
	}
}

func echo(c *net.TCPConn) {
	defer c.Close()
	_, _ = io.Copy(c, c)
	_ = c.CloseWrite()
}

func sum(c *net.TCPConn) {
	defer c.Close()
	n, _ := io.Copy(io.Discard, c)
	fmt.Fprintln(c, n)
}
