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
	"net/http/pprof"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/klog/v2"

	"github.com/embedcri/embedcri/pkg/image"
	"github.com/embedcri/embedcri/pkg/sandbox"
)

// Server serves administrators.
type Server struct {
	pods   *sandbox.Manager
	images *image.Store
	http   *http.Server
}

// NewServer returns a Server; Serve makes it work.
func NewServer(pods *sandbox.Manager, images *image.Store) *Server {
	s := &Server{pods: pods, images: images}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /task/{id}/pause", s.task((*sandbox.Container).Pause))
	mux.HandleFunc("POST /task/{id}/resume", s.task((*sandbox.Container).Resume))
	mux.HandleFunc("GET /image", s.list)
	mux.HandleFunc("POST /image/pull", s.pull)
	mux.HandleFunc("DELETE /image", s.remove)
	mux.HandleFunc("POST /image/import", s.importArchive)
	mux.HandleFunc("GET /image/export", s.export)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index) // goroutine, heap, block, …
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	s.http = &http.Server{Handler: caught(mux), ReadHeaderTimeout: 10 * time.Second}
	return s
}

// Serve answers on l until ctx ends, and closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = s.http.Close() })
	defer stop()
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// caught makes a panic in a call an answer, and leaves its stack in the log.
func caught(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				klog.Background().Error(nil, "Panic in an admin call", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				fail(w, fmt.Errorf("panic in %s: %v: %w", r.URL.Path, p, errdefs.ErrInternal))
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// fail answers with err. Nothing may have been written before.
func fail(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch {
	case errdefs.IsNotFound(err):
		code = http.StatusNotFound
	case errdefs.IsInvalidArgument(err):
		code = http.StatusBadRequest
	case errdefs.IsFailedPrecondition(err), errdefs.IsAlreadyExists(err):
		code = http.StatusConflict
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	answer(w, Event{Error: err.Error()})
}

// answer writes one JSON object. A client that has gone is not worth a log line.
func answer(w io.Writer, v any) { _ = json.NewEncoder(w).Encode(v) }

func (s *Server) task(do func(*sandbox.Container, context.Context) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := s.pods.Container(r.PathValue("id"))
		if err == nil {
			err = do(c, r.Context())
		}
		if err != nil {
			fail(w, err)
			return
		}
		klog.Background().Info("admin call", "path", r.URL.Path)
		answer(w, struct{}{})
	}
}

func describe(i *image.Image) Image {
	return Image{ID: i.ID, Tags: i.RepoTags, Digests: i.RepoDigests, Size: i.Size, Pinned: i.Pinned}
}

func (s *Server) list(w http.ResponseWriter, _ *http.Request) {
	out := []Image{}
	for _, i := range s.images.Images() {
		out = append(out, describe(i))
	}
	answer(w, out)
}

func (s *Server) pull(w http.ResponseWriter, r *http.Request) {
	ref := r.FormValue("ref")
	flush := http.NewResponseController(w)
	img, err := s.images.Pull(r.Context(), image.PullRequest{Ref: ref, Progress: func(p image.Progress) {
		answer(w, Event{Progress: &p})
		_ = flush.Flush()
	}})
	if err != nil {
		answer(w, Event{Error: err.Error()}) // the status may have gone out with the first progress
		return
	}
	d := describe(img)
	klog.Background().Info("admin pull", "image", ref, "imageID", d.ID)
	answer(w, Event{Image: &d})
}

func (s *Server) remove(w http.ResponseWriter, r *http.Request) {
	if err := s.images.Remove(r.Context(), r.FormValue("ref")); err != nil {
		fail(w, err)
		return
	}
	klog.Background().Info("admin remove", "image", r.FormValue("ref"))
	answer(w, struct{}{})
}

func (s *Server) importArchive(w http.ResponseWriter, r *http.Request) {
	imgs, err := s.images.Import(r.Context(), r.Body, image.ImportOptions{})
	if err != nil {
		fail(w, err)
		return
	}
	out := []Image{}
	for _, i := range imgs {
		out = append(out, describe(i))
		klog.Background().Info("admin import", "image", i.Name(), "imageID", i.ID)
	}
	answer(w, out)
}

func (s *Server) export(w http.ResponseWriter, r *http.Request) {
	refs := r.URL.Query()["ref"]
	for _, ref := range refs { // before the first byte goes out
		if _, err := s.images.Image(ref); err != nil {
			fail(w, err)
			return
		}
	}
	if err := s.images.Export(r.Context(), w, refs...); err != nil {
		// Part of the archive is out: only a broken connection can tell the client.
		klog.Background().Error(err, "admin export", "images", refs)
		panic(http.ErrAbortHandler)
	}
}
