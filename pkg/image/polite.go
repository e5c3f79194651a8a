// SPDX-License-Identifier: Apache-2.0

package image

import (
	"net/http"
	"strconv"
	"time"
)

const (
	// politeTries is how often a request is sent to a server that says it is too busy.
	politeTries = 4
	// politeWait is the longest that a server can make a request wait. One that wants more is taken at
	// its word: the pull moves on to the next mirror or fails, and the kubelet comes back later.
	politeWait = 30 * time.Second
)

// politeTransport does what a busy registry asks for: a 429 or 503 with Retry-After is waited for and
// the request sent again. containerd's resolver would repeat a 429 five times without a pause.
type politeTransport struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper. Only requests without a body come here twice: a pull has
// no others but those for a token, which are sent once.
func (t *politeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	for try := 1; ; try++ {
		resp, err := t.next.RoundTrip(req)
		if err != nil || try == politeTries || req.Body != nil ||
			resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
			return resp, err
		}
		wait, ok := retryAfter(resp.Header.Get("Retry-After"), time.Now())
		if !ok || wait > politeWait {
			return resp, nil
		}
		_ = resp.Body.Close()
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-req.Context().Done():
			timer.Stop()
			return nil, req.Context().Err()
		}
	}
}

// CloseIdleConnections ends the real transport's connections that nobody uses.
func (t *politeTransport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// retryAfter reads the header's two forms, RFC 9110 section 10.2.3: seconds or a date.
func retryAfter(value string, now time.Time) (time.Duration, bool) {
	if value == "" {
		return 0, false
	}
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(max(seconds, 0)) * time.Second, true
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(now), 0), true
	}
	return 0, false
}
