// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"container/list"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// tokens keeps what Exec, Attach and PortForward have prepared until a client comes for it. A token is the client's only
// credential, so it is random beyond guessing, works once, and only for a while.
type tokens struct {
	ttl time.Duration
	max int
	now func() time.Time

	mu      sync.Mutex
	entries map[string]*list.Element
	byAge   list.List // of tokenEntry, oldest first; all live equally long, so that the oldest expires first
}

type tokenEntry struct {
	token   string
	session session
	expires time.Time
}

func newTokens(ttl time.Duration, max int) *tokens {
	return &tokens{ttl: ttl, max: max, now: time.Now, entries: make(map[string]*list.Element)}
}

// put keeps s and returns its token. ErrResourceExhausted if too many clients have asked for a URL and not come.
func (t *tokens) put(s session) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	t.expireLocked(now)
	if len(t.entries) >= t.max {
		return "", fmt.Errorf("%d streaming sessions are waiting for their clients: %w", len(t.entries), errdefs.ErrResourceExhausted)
	}
	token := rand.Text() // 128 bits
	t.entries[token] = t.byAge.PushBack(tokenEntry{token, s, now.Add(t.ttl)})
	return token, nil
}

// take returns what token stands for, once. kind must be the one that it was made for: a URL is good for what it says.
func (t *tokens) take(token string, kind sessionKind) (session, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked(t.now())
	e, ok := t.entries[token]
	if !ok || e.Value.(tokenEntry).session.kind != kind {
		return session{}, false
	}
	t.byAge.Remove(e)
	delete(t.entries, token)
	return e.Value.(tokenEntry).session, true
}

func (t *tokens) expireLocked(now time.Time) {
	for e := t.byAge.Front(); e != nil && !now.Before(e.Value.(tokenEntry).expires); e = t.byAge.Front() {
		t.byAge.Remove(e)
		delete(t.entries, e.Value.(tokenEntry).token)
	}
}
