// SPDX-License-Identifier: Apache-2.0

package testregistry

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Options says how a registry is served. The zero value serves plain HTTP without authentication on a
// free loopback port.
type Options struct {
	// Listen is the address to listen on; "" is 127.0.0.1:0.
	Listen string
	// TLS, when set, makes the registry speak HTTPS only.
	TLS *tls.Config
	// Wrap, when set, stands in front of the registry for pulling clients: authentication, faults,
	// counting. Push does not go through it.
	Wrap func(http.Handler) http.Handler
}

// Registry is a running registry. Its methods may be called at any time, by several goroutines.
type Registry struct {
	// Addr is the host:port it listens on.
	Addr string

	handler http.Handler // without Options.Wrap, for pushing
	server  *http.Server
	done    chan struct{}

	mu     sync.Mutex
	pushed map[string]bool
	counts map[string]int
}

// Start serves a registry until the test ends.
func Start(tb testing.TB, o Options) *Registry {
	tb.Helper()
	r, err := Serve(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Errorf("close the test registry: %v", err)
		}
	})
	return r
}

// Serve serves a registry until Close.
func Serve(o Options) (*Registry, error) {
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("test registry: %w", err)
	}
	r := &Registry{
		Addr:    listener.Addr().String(),
		handler: serveRanges(registry.New(registry.Logger(log.New(io.Discard, "", 0)))),
		done:    make(chan struct{}),
		pushed:  map[string]bool{},
		counts:  map[string]int{},
	}
	var handler http.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.counts[req.Method+" "+req.URL.Path]++
		r.mu.Unlock()
		r.handler.ServeHTTP(w, req)
	})
	if o.Wrap != nil {
		handler = o.Wrap(handler)
	}
	r.server = &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	if o.TLS != nil {
		listener = tls.NewListener(listener, o.TLS)
	}
	go func() {
		defer close(r.done)
		_ = r.server.Serve(listener) // always ends with ErrServerClosed, by Close
	}()
	return r, nil
}

// Close stops serving and drops every connection.
func (r *Registry) Close() error {
	err := r.server.Close()
	<-r.done
	return err
}

// Ref makes the image called name (one of [Names]) if this registry does not have it yet, and returns
// its full reference.
func (r *Registry) Ref(tb testing.TB, name string) string {
	tb.Helper()
	ref, err := r.Add(name)
	if err != nil {
		tb.Fatal(err)
	}
	return ref
}

// Add is Ref for programs.
func (r *Registry) Add(name string) (string, error) {
	build, ok := known[name]
	if !ok {
		return "", fmt.Errorf("test registry has no image %q, only %s", name, strings.Join(Names(), " "))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pushed[name] {
		return r.Addr + "/" + name, nil
	}
	thing, err := build()
	if err != nil {
		return "", fmt.Errorf("build image %s: %w", name, err)
	}
	if err := r.push(name, thing); err != nil {
		return "", err
	}
	r.pushed[name] = true
	return r.Addr + "/" + name, nil
}

// AddImage is Push for programs.
func (r *Registry) AddImage(name string, thing partial.Describable) (string, error) {
	return r.Addr + "/" + name, r.push(name, thing)
}

// Push puts an image ([v1.Image]) or an index ([v1.ImageIndex]) into the registry under name, such as
// "big:1", and returns its full reference and its digest.
func (r *Registry) Push(tb testing.TB, name string, thing partial.Describable) (ref, digest string) {
	tb.Helper()
	if err := r.push(name, thing); err != nil {
		tb.Fatal(err)
	}
	hash, err := thing.Digest()
	if err != nil {
		tb.Fatal(err)
	}
	return r.Addr + "/" + name, hash.String()
}

func (r *Registry) push(image string, thing partial.Describable) error {
	ref, err := name.ParseReference(r.Addr+"/"+image, name.Insecure)
	if err != nil {
		return fmt.Errorf("push image %s: %w", image, err)
	}
	direct := remote.WithTransport(roundTripper{r.handler})
	switch t := thing.(type) {
	case v1.Image:
		err = remote.Write(ref, t, direct)
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, t, direct)
	default:
		err = errors.New("neither an image nor an index")
	}
	if err != nil {
		return fmt.Errorf("push image %s: %w", image, err)
	}
	return nil
}

// Count tells how many requests of pulling clients began with prefix, "METHOD /path", so far:
// Count("GET /v2/busybox/blobs/").
func (r *Registry) Count(prefix string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for k, v := range r.counts {
		if strings.HasPrefix(k, prefix) {
			n += v
		}
	}
	return n
}

// roundTripper answers requests by calling a handler, with no connection in between.
type roundTripper struct{ handler http.Handler }

func (t roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	pr, pw := io.Pipe()
	w := &pipeWriter{header: http.Header{}, body: pw, ready: make(chan int, 1)}
	inner := req.Clone(context.WithoutCancel(req.Context()))
	if inner.Body == nil {
		inner.Body = http.NoBody
	}
	go func() {
		t.handler.ServeHTTP(w, inner)
		w.WriteHeader(http.StatusOK)
		_ = pw.Close()
	}()
	return &http.Response{
		StatusCode: <-w.ready, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: pr, ContentLength: contentLength(w.header), Request: req,
	}, nil
}

func contentLength(h http.Header) int64 {
	n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// serveRanges answers requests for "from here to the end" of a blob, which go-containerregistry's handler
// does not understand and every other registry does.
func serveRanges(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") == "" || r.Method != http.MethodGet {
			next.ServeHTTP(w, r)
			return
		}
		whole := r.Clone(r.Context())
		whole.Header.Del("Range")
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, whole)
		if rec.Code != http.StatusOK {
			w.WriteHeader(rec.Code)
			_, _ = w.Write(rec.Body.Bytes())
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(rec.Body.Bytes()))
	})
}

type pipeWriter struct {
	header http.Header
	body   *io.PipeWriter
	ready  chan int
	once   sync.Once
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(code int) { w.once.Do(func() { w.ready <- code }) }

func (w *pipeWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

// PushManifest puts the manifest of an image into the registry as it is, without its blobs and without
// a look at it, and returns its full reference.
func (r *Registry) PushManifest(tb testing.TB, image string, manifest v1.Image) string {
	tb.Helper()
	body, err := manifest.RawManifest()
	if err != nil {
		tb.Fatal(err)
	}
	mediaType, err := manifest.MediaType()
	if err != nil {
		tb.Fatal(err)
	}
	repository, tag, _ := strings.Cut(image, ":")
	req := httptest.NewRequest(http.MethodPut, "/v2/"+repository+"/manifests/"+tag, bytes.NewReader(body))
	req.Header.Set("Content-Type", string(mediaType))
	rec := httptest.NewRecorder()
	r.handler.ServeHTTP(rec, req)
	if rec.Code != http.StatusCreated {
		tb.Fatalf("push manifest %s: %d %s", image, rec.Code, rec.Body)
	}
	return r.Addr + "/" + image
}
