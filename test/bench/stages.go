// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
)

// total is a Prometheus summary without quantiles.
type total struct{ sum, count float64 }

// since is what has been added to an earlier total.
func (t total) since(earlier total) total { return total{t.sum - earlier.sum, t.count - earlier.count} }

var execStage = regexp.MustCompile(`^embedcri_exec_stage_duration_seconds_(sum|count)\{stage="([^"]*)"\} (\S+)$`)

// execStages reads, by name, what embedcri's metrics say about the stages of execs. They are the only thing that the bench asks for
// by other means than the CRI.
func (d *daemon) execStages(ctx context.Context) (map[string]total, error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", d.metrics())
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://embedcri/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics: %s", resp.Status)
	}
	totals := map[string]total{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		m := execStage.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		v, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return nil, err
		}
		t := totals[m[2]]
		if m[1] == "sum" {
			t.sum = v
		} else {
			t.count = v
		}
		totals[m[2]] = t
	}
	return totals, nil
}

// metrics is the socket of embedcri's metrics.
func (d *daemon) metrics() string { return filepath.Join(d.state, "metrics.sock") }
