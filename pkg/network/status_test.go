// SPDX-License-Identifier: Apache-2.0

package network_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// broken makes the plug-in "sick" fail STATUS from now on, or mends it.
func (f *fakes) broken(yes bool) {
	f.t.Helper()
	flag := filepath.Join(f.dir, "broken")
	var err error
	if yes {
		err = os.WriteFile(flag, nil, 0o600)
	} else {
		err = os.Remove(flag)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

const sick = `if [ $CNI_COMMAND = STATUS ] && [ -e $dir/broken ]; then echo '{"cniVersion":"1.1.0","code":50,"msg":"agent is down"}'; exit 1; fi; ` + result

func TestStatusVerb(t *testing.T) {
	f := newFakes(t)
	f.StatusInterval = 10 * time.Millisecond
	f.plugin("sick", sick)
	f.network("10-net.conflist", "net1", "1.1.0", "sick")
	f.broken(true)
	n := open(t, f.Options)
	eventually(t, "told", func() bool {
		ready, _, message := n.Status()
		return !ready && strings.Contains(message, `network "net1": plug-in sick: STATUS: agent is down (code 50)`)
	})
	f.broken(false)
	eventually(t, "ready", func() bool { ready, _, _ := n.Status(); return ready })
	f.broken(true)
	eventually(t, "not ready", func() bool { ready, _, _ := n.Status(); return !ready })
}

// TestStatusBeforeTheVerb: CNI 1.0 knows no STATUS; a configuration whose plug-ins exist is as much
// as can be asked for.
func TestStatusBeforeTheVerb(t *testing.T) {
	f := newFakes(t)
	f.StatusInterval = 10 * time.Millisecond
	f.network("10-net.conflist", "net1", "1.0.0", "sick")
	n := open(t, f.Options)
	eventually(t, "told", func() bool {
		ready, _, message := n.Status()
		return !ready && strings.Contains(message, "plug-in sick is not in")
	})
	f.plugin("sick", "exit 1")
	eventually(t, "ready", func() bool { ready, _, _ := n.Status(); return ready })
	if _, err := os.Stat(filepath.Join(f.dir, "log.status")); err == nil {
		t.Error("STATUS was asked for")
	}
}

func TestStatusOfAHangingPlugin(t *testing.T) {
	f := newFakes(t)
	f.Timeout = 50 * time.Millisecond
	f.plugin("hang", "sleep 1000")
	f.network("10-net.conflist", "net1", "1.1.0", "hang")
	start := time.Now()
	n := open(t, f.Options)
	ready, _, message := n.Status()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("Open and Status took %s", took)
	}
	if ready {
		t.Errorf("ready before anybody was asked: %s", message)
	}
	eventually(t, "told", func() bool {
		_, _, message := n.Status()
		return strings.Contains(message, "plug-in hang: STATUS: killed: no end within 50ms")
	})
}

func TestStatusGrace(t *testing.T) {
	f := newFakes(t)
	f.StatusInterval, f.StatusGrace = 5*time.Millisecond, time.Hour
	f.plugin("sick", sick)
	f.network("10-net.conflist", "net1", "1.1.0", "sick")
	n := open(t, f.Options)
	eventually(t, "ready", func() bool { ready, _, _ := n.Status(); return ready })
	f.broken(true)
	before := len(f.read("log.status"))
	eventually(t, "asked again, twice", func() bool { return len(f.read("log.status")) > before+len("sick STATUS \n")+1 })
	if ready, _, message := n.Status(); !ready {
		t.Errorf("not ready within the grace period: %s", message)
	}
}
