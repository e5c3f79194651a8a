// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"github.com/embedcri/embedcri/pkg/image"
)

// Image is what the admin calls say of an image.
type Image struct {
	ID      string   `json:"id"`
	Tags    []string `json:"tags,omitempty"`
	Digests []string `json:"digests,omitempty"`
	Size    uint64   `json:"size"` // bytes on disk
	Pinned  bool     `json:"pinned,omitempty"`
}

// Event is one line of an answer that takes a while.
type Event struct {
	Progress *image.Progress `json:"progress,omitempty"`
	Image    *Image          `json:"image,omitempty"`
	Error    string          `json:"error,omitempty"`
}

// Client talks to a daemon's admin socket.
type Client struct{ http *http.Client }

// NewClient returns a client of the daemon at socket; it connects when it is used.
func NewClient(socket string) *Client {
	return &Client{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}}
}

func (c *Client) do(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://embedcri"+path+"?"+query.Encode(), body)
	if err != nil {
		return nil, err
	}
	r, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	if r.StatusCode != http.StatusOK {
		defer r.Body.Close()
		var e Event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil || e.Error == "" {
			return nil, errors.New(r.Status)
		}
		return nil, errors.New(e.Error)
	}
	return r, nil
}

// call makes a call whose answer is one JSON value.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, body io.Reader, v any) error {
	r, err := c.do(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	return json.NewDecoder(r.Body).Decode(v)
}

// Pause freezes a container.
func (c *Client) Pause(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodPost, "/task/"+url.PathEscape(id)+"/pause", nil, nil, &struct{}{})
}

// Resume lets a paused container run on.
func (c *Client) Resume(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodPost, "/task/"+url.PathEscape(id)+"/resume", nil, nil, &struct{}{})
}

// Images lists all images.
func (c *Client) Images(ctx context.Context) (out []Image, err error) {
	return out, c.call(ctx, http.MethodGet, "/image", nil, nil, &out)
}

// Pull pulls an image; progress is called a few times a second.
func (c *Client) Pull(ctx context.Context, ref string, progress func(image.Progress)) (*Image, error) {
	r, err := c.do(ctx, http.MethodPost, "/image/pull", url.Values{"ref": {ref}}, nil)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	for dec := json.NewDecoder(r.Body); ; {
		var e Event
		if err := dec.Decode(&e); err != nil {
			return nil, fmt.Errorf("the daemon ended the answer: %w", err)
		}
		switch {
		case e.Error != "":
			return nil, errors.New(e.Error)
		case e.Image != nil:
			return e.Image, nil
		case e.Progress != nil:
			progress(*e.Progress)
		}
	}
}

// Remove removes an image; an absent one is success.
func (c *Client) Remove(ctx context.Context, ref string) error {
	return c.call(ctx, http.MethodDelete, "/image", url.Values{"ref": {ref}}, nil, &struct{}{})
}

// Import loads the images of an archive.
func (c *Client) Import(ctx context.Context, archive io.Reader) (out []Image, err error) {
	return out, c.call(ctx, http.MethodPost, "/image/import", nil, archive, &out)
}

// Export writes images as one archive.
func (c *Client) Export(ctx context.Context, w io.Writer, refs ...string) error {
	r, err := c.do(ctx, http.MethodGet, "/image/export", url.Values{"ref": refs}, nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(w, r.Body)
	return err
}
