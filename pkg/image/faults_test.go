// SPDX-License-Identifier: Apache-2.0

package image

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/embedcri/embedcri/internal/testregistry"
)

// The faults of servers that tests pull from. Each wraps the handler of a registry that would otherwise
// be fine.

func isBlob(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/")
}

// answers500 fails every request.
func answers500(http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "out of order", http.StatusInternalServerError)
	})
}

// answers404 knows nothing.
func answers404(http.Handler) http.Handler { return http.NotFoundHandler() }

// truncates cuts every layer off in the middle.
func truncates(next http.Handler) http.Handler {
	return edits(next, func(w http.ResponseWriter, body []byte) {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		if len(body) < 4<<10 {
			_, _ = w.Write(body)
			return
		}
		_, _ = w.Write(body[:len(body)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
}

// refusesRanges truncates, and cannot send the rest either.
func refusesRanges(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			http.Error(w, "what is a range", http.StatusRequestedRangeNotSatisfiable)
			return
		}
		truncates(next).ServeHTTP(w, r)
	})
}

// corrupts changes one byte of every blob.
func corrupts(next http.Handler) http.Handler {
	return edits(next, func(w http.ResponseWriter, body []byte) {
		body[len(body)/2] ^= 0x40
		_, _ = w.Write(body)
	})
}

// lengthens sends more than every blob has.
func lengthens(next http.Handler) http.Handler {
	return edits(next, func(w http.ResponseWriter, body []byte) { _, _ = w.Write(append(body, "more of it"...)) })
}

// stalls sends the beginning of every blob and then nothing.
func stalls(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isBlob(r) {
			next.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		w.Header().Set("Content-Length", strconv.Itoa(rec.Body.Len()))
		_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/3])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
}

// patience is the progress time-out of pulls with a fault. A busy machine may take more than a second to write what it unpacks.
const patience = 3 * time.Second

// dribbles sends every blob in small pieces with pauses in between, which take longer together than patience and are each much
// shorter.
func dribbles(next http.Handler) http.Handler {
	return edits(next, func(w http.ResponseWriter, body []byte) {
		const pieces = 24
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		for i := range pieces {
			_, _ = w.Write(body[i*len(body)/pieces : (i+1)*len(body)/pieces])
			_ = http.NewResponseController(w).Flush()
			time.Sleep(patience / (pieces - 4))
		}
	})
}

// edits lets f send the body of a blob in place of the registry. It answers no range requests.
func edits(next http.Handler, f func(w http.ResponseWriter, body []byte)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isBlob(r) {
			next.ServeHTTP(w, r)
			return
		}
		r.Header.Del("Range")
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		w.Header().Set("Content-Type", rec.Header().Get("Content-Type"))
		f(w, rec.Body.Bytes())
	})
}

// limitsRate refuses all but every third request, and says when to come again; "" means it does not.
func limitsRate(after string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		var n atomic.Int64
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1)%3 == 0 {
				next.ServeHTTP(w, r)
				return
			}
			if after != "" {
				w.Header().Set("Retry-After", after)
			}
			http.Error(w, "slow down", http.StatusTooManyRequests)
		})
	}
}

// refusesRate refuses everything.
func refusesRate(http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "86400")
		http.Error(w, "too many pulls today", http.StatusTooManyRequests)
	})
}

// redirects sends clients elsewhere for blobs, as registries before object stores do.
func redirects(t testing.TB) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				t.Error("credentials were sent to where the registry redirects")
			}
			next.ServeHTTP(w, r)
		}))
		t.Cleanup(store.Close)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isBlob(r) {
				http.Redirect(w, r, strings.Replace(store.URL, "127.0.0.1", "localhost", 1)+r.URL.Path, http.StatusTemporaryRedirect)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// wantsPassword asks for a login as user "kube" with password "secret" by HTTP basic authentication.
func wantsPassword(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, secret, ok := r.BasicAuth(); !ok || user != "kube" || secret != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, "login", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// wantsToken asks for a token of its own token server, which gives "good" for the password above or
// the identity token "refresh".
func wantsToken(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			_, password, _ := r.BasicAuth()
			if password == "secret" || r.PostFormValue("password") == "secret" || r.PostFormValue("refresh_token") == "refresh" {
				fmt.Fprint(w, `{"token":"good","access_token":"good"}`)
				return
			}
			http.Error(w, "no token for you", http.StatusUnauthorized)
			return
		}
		if r.Header.Get("Authorization") != "Bearer good" {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, r.Host))
			http.Error(w, "token", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// certs writes a hosts.toml for registry into a certs.d directory and returns that directory.
func certs(t testing.TB, registry, toml string) string {
	t.Helper()
	root := t.TempDir()
	host, port, _ := net.SplitHostPort(registry)
	dir := filepath.Join(root, host+"_"+port+"_")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(toml), 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

// mirrored starts a good registry and a mirror of it with a fault, and returns the former, the CertDirs
// that put the mirror first, and the mirror.
func mirrored(t testing.TB, fault func(http.Handler) http.Handler, images ...string) (*testregistry.Registry, []string, *testregistry.Registry) {
	t.Helper()
	reg, mirror := testregistry.Start(t, testregistry.Options{}), testregistry.Start(t, testregistry.Options{Wrap: fault})
	for _, image := range images {
		reg.Ref(t, image)
		mirror.Ref(t, image)
	}
	return reg, []string{certs(t, reg.Addr, fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\n", reg.Addr, mirror.Addr))}, mirror
}

// authority is a certificate authority of a test's own.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	File string // its certificate, as PEM
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, File: filepath.Join(t.TempDir(), "ca.crt")}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "embedcri test"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	var der []byte
	a.key, der = a.sign(template, template, nil)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.write(a.File, "CERTIFICATE", der)
	return a
}

func (a *authority) sign(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, der
}

// Issue makes a certificate for 127.0.0.1, for servers and clients.
func (a *authority) Issue() (cert tls.Certificate, certFile, keyFile string) {
	a.t.Helper()
	key, der := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "127.0.0.1"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, a.key)
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	dir := a.t.TempDir()
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	a.write(certFile, "CERTIFICATE", der)
	a.write(keyFile, "EC PRIVATE KEY", keyDER)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, certFile, keyFile
}

func (a *authority) write(file, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// Config is for clients that trust the authority.
func (a *authority) Config() *tls.Config { return &tls.Config{RootCAs: a.Pool()} }

// Pool has the authority in it.
func (a *authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}
