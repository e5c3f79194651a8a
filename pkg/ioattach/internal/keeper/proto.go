// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Protocol: SOCK_SEQPACKET, one request packet, one answer packet.
//
//	request  version op name\0name\0...   with one descriptor a name for put
//	answer   version status text          with one descriptor for get and open
//
// version is one byte. A daemon that is newer than the keeper it finds speaks the keeper's
// version, which it learns from hello; the keeper is never restarted for an update.
const (
	version = 1

	opHello = 'h'
	opPut   = 'p'
	opGet   = 'g'
	opOpen  = 'o' // name and path: open the FIFO path for reading, at once, and hold it under name
	opDrop  = 'd'
	opList  = 'l' // names behind the given one, as many as fit
	opStop  = 'q'

	statusOK      = 0
	statusMissing = 1
	statusBad     = 2

	maxPacket = 64 << 10
	// maxFDs is a little below the kernel's SCM_MAX_FD (253, include/net/scm.h).
	maxFDs = 240
	// maxNames bounds the text of one request or list.
	maxNames = 32 << 10
)

func encode(op byte, names []string) []byte {
	b := []byte{version, op}
	for _, n := range names {
		b = append(append(b, n...), 0)
	}
	return b
}

func decodeNames(b []byte) []string {
	var names []string
	for len(b) > 0 {
		name, rest, ok := bytes.Cut(b, []byte{0})
		if !ok {
			break
		}
		names = append(names, string(name))
		b = rest
	}
	return names
}

// receive reads one packet and its descriptors, which are close-on-exec.
func receive(c *net.UnixConn, buf []byte) (n int, fds []int, err error) {
	oob := make([]byte, unix.CmsgSpace(maxFDs*4))
	// net sets MSG_CMSG_CLOEXEC.
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return 0, nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, nil, os.NewSyscallError("parse control message", err)
	}
	for _, m := range msgs {
		if more, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, more...)
		}
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		closeAll(fds)
		return 0, nil, errors.New("packet truncated")
	}
	if n < 2 {
		closeAll(fds)
		return 0, nil, fmt.Errorf("packet of %d bytes", n)
	}
	return n, fds, nil
}

func send(c *net.UnixConn, b []byte, fds []int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err := c.WriteMsgUnix(b, oob, nil)
	return err
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
