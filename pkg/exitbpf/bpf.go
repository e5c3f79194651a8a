// SPDX-License-Identifier: Apache-2.0

package exitbpf

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// programs maps the name a link is pinned under to the program's in the object.
func programs() map[string]string {
	return map[string]string{"exit": "on_exit", "signal": "on_signal", "victim": "on_victim"}
}

// maps that are pinned; also their names in the object.
func pinnedMaps() []string { return []string{"watched", "recent", "ooms", "stats"} }

// opener holds what openBPF has done so far; undone in close if it fails.
type opener struct {
	o      Options
	dir    string // of the present layout
	old    []pinned
	spec   *ebpf.CollectionSpec
	keep   map[string]*ebpf.Map // pinned and fit to be used further
	srcs   []source             // watched maps to be moved from
	oldOOM []*ebpf.Map
	stale  []pinned // to be unpinned at the end
	fresh  []pinned // pinned by us
	coll   *ebpf.Collection
	filter *filter
	links  map[string]link.Link
	lock   *os.File
}

// openBPF attaches the programs, takes over what is pinned, and pins the rest.
func openBPF(o Options, pidns uint32) (records, error) {
	if err := ensureBPFFS(o.Dir); err != nil {
		return nil, explain(err)
	}
	op := &opener{o: o, dir: filepath.Join(o.Dir, layoutDir), keep: map[string]*ebpf.Map{}, links: map[string]link.Link{}}
	recs, err := op.open(pidns)
	if err != nil {
		op.abort()
		return nil, explain(err)
	}
	return recs, nil
}

func (op *opener) open(pidns uint32) (records, error) {
	var err error
	if op.lock, err = lockDir(op.o.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(op.dir, 0o700); err != nil {
		return nil, err
	}
	if op.spec, err = op.o.object(); err != nil {
		return nil, fmt.Errorf("read BPF object: %w", err)
	}
	op.spec.Maps["watched"].MaxEntries = uint32(op.o.Capacity)

	steps := []func() error{
		op.findMaps,
		op.findOtherLayouts,
		func() error { return op.configure(pidns) },
		op.load,
		op.fillFilter,
		op.attach,
		op.pin,
		func() error { return migrate(op.coll.Maps["watched"], op.srcs) },
		func() error { return migrateOOMs(op.coll.Maps["ooms"], op.oldOOM) },
		func() error { return unpin(op.stale) }, // from here on the old programs are detached
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return op.finish(), nil
}

// findMaps decides for each map whether the newest pin can be used further.
func (op *opener) findMaps() error {
	var err error
	if op.old, err = listPins(op.dir); err != nil {
		return err
	}
	for _, name := range pinnedMaps() {
		pins := named(op.old, name)
		maps, err := openMaps(pins)
		if err != nil {
			return err
		}
		if len(maps) > 0 && op.spec.Maps[name].Compatible(maps[0]) == nil {
			op.keep[name], maps, pins = maps[0], maps[1:], pins[1:]
		}
		op.stale = append(op.stale, pins...)
		switch name {
		case "watched":
			for _, m := range maps {
				if m.KeySize() != op.spec.Maps[name].KeySize || m.ValueSize() != op.spec.Maps[name].ValueSize {
					return fmt.Errorf("pinned map %s holds %d bytes a record, expected %d", name, m.ValueSize(), op.spec.Maps[name].ValueSize)
				}
				op.srcs = append(op.srcs, source{m: m})
			}
		case "ooms":
			op.oldOOM = maps
		default:
			closeMaps(maps)
		}
	}
	return nil
}

// findOtherLayouts finds records that a daemon with another layout left.
func (op *opener) findOtherLayouts() error {
	dirs, err := filepath.Glob(filepath.Join(op.o.Dir, "v[0-9]*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if dir == op.dir {
			continue
		}
		pins, err := listPins(dir)
		if err != nil {
			return err
		}
		if len(pins) == 0 {
			continue
		}
		convert := op.o.layouts[filepath.Base(dir)]
		if convert == nil {
			return fmt.Errorf("%s was written by another version of embedcri, which this one does not know", dir)
		}
		maps, err := openMaps(named(pins, "watched"))
		if err != nil {
			return err
		}
		for _, m := range maps {
			op.srcs = append(op.srcs, source{m: m, convert: convert})
		}
		op.stale = append(op.stale, pins...)
	}
	return nil
}

// configure sets the programs' constants and leaves out what this kernel cannot have.
func (op *opener) configure(pidns uint32) error {
	self, level := uint32(os.Getpid()), uint32(0)
	if pidns != initPidns {
		var err error
		if self, level, err = op.whoami(); err != nil {
			return fmt.Errorf("find the daemon's place among pid namespaces: %w", err)
		}
	}
	countAtExit := uint32(0)
	if !victimIsTask() {
		delete(op.spec.Programs, "on_victim")
		countAtExit = 1
	}
	for name, v := range map[string]uint32{
		"daemon_tgid": self, "pidns_inum": pidns, "pidns_level": level, "count_at_exit": countAtExit,
	} {
		c := op.spec.Variables[name]
		if c == nil {
			return fmt.Errorf("BPF object has no constant %s", name)
		}
		if err := c.Set(v); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// whoami asks the kernel for this process' pid in the initial pid namespace and
// how deep its own lies: see whoami in exit.bpf.c.
func (op *opener) whoami() (tgid, level uint32, err error) {
	spec := op.spec.Copy()
	var objs struct {
		Whoami *ebpf.Program `ebpf:"whoami"`
	}
	if err := spec.LoadAndAssign(&objs, nil); err != nil {
		return 0, 0, err
	}
	defer objs.Whoami.Close()
	ret, err := objs.Whoami.Run(&ebpf.RunOptions{})
	return ret & 0xffffff, ret >> 24, err
}

// victimIsTask reports whether mark_victim passes the task (since 6.8; before,
// only a pid).
func victimIsTask() bool {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return false
	}
	var t *btf.Typedef
	if kernel.TypeByName("btf_trace_mark_victim", &t) != nil {
		return false
	}
	ptr, _ := t.Type.(*btf.Pointer)
	if ptr == nil {
		return false
	}
	proto, _ := ptr.Target.(*btf.FuncProto)
	if proto == nil || len(proto.Params) < 2 {
		return false
	}
	arg, _ := proto.Params[1].Type.(*btf.Pointer)
	if arg == nil {
		return false
	}
	task, _ := btf.UnderlyingType(arg.Target).(*btf.Struct)
	return task != nil && task.Name == "task_struct"
}

func (op *opener) load() error {
	delete(op.spec.Programs, "whoami")
	var err error
	op.coll, err = ebpf.NewCollectionWithOptions(op.spec, ebpf.CollectionOptions{MapReplacements: op.keep})
	if err != nil {
		return fmt.Errorf("load BPF programs: %w", err)
	}
	return nil
}

// fillFilter lets the programs see all slots there are and will be after
// migrate, before they run for the first time.
func (op *opener) fillFilter() error {
	op.filter = &filter{m: op.coll.Maps["filter"]}
	from := op.srcs
	if m := op.keep["watched"]; m != nil {
		from = append(slices.Clone(from), source{m: m})
	}
	seen := map[proc]bool{}
	for _, s := range from {
		err := s.each(func(p proc, _ slot) error {
			if seen[p] {
				return nil
			}
			seen[p] = true
			return op.filter.add(p)
		})
		if err != nil {
			return fmt.Errorf("read records: %w", err)
		}
	}
	return nil
}

func (op *opener) attach() error {
	for name, prog := range programs() {
		p := op.coll.Programs[prog]
		if p == nil {
			continue
		}
		l, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			return fmt.Errorf("attach %s: %w", prog, err)
		}
		op.links[name] = l
	}
	return nil
}

// pin pins what is not pinned yet. Maps come before the links that write into
// them: a link alone would record where nobody can read.
func (op *opener) pin() error {
	for _, name := range pinnedMaps() {
		if op.keep[name] != nil {
			continue
		}
		p := op.freshPin(name)
		if err := op.coll.Maps[name].Pin(p.path); err != nil {
			return fmt.Errorf("pin map %s: %w", p.path, err)
		}
		op.fresh = append(op.fresh, p)
	}
	for name := range programs() {
		op.stale = append(op.stale, named(op.old, name)...)
		if op.links[name] == nil {
			continue
		}
		p := op.freshPin(name)
		if err := op.links[name].Pin(p.path); err != nil {
			return fmt.Errorf("pin link %s: %w", p.path, err)
		}
		op.fresh = append(op.fresh, p)
	}
	return nil
}

func (op *opener) freshPin(name string) pinned {
	gen := nextGen(named(op.old, name))
	return pinned{name: name, gen: gen, path: pinPath(op.dir, name, gen)}
}

func (op *opener) finish() *bpfRecords {
	op.closeSources()
	for _, l := range op.links {
		_ = l.Close() // pinned
	}
	for _, p := range op.coll.Programs {
		_ = p.Close() // held by its link
	}
	for name, m := range op.coll.Maps {
		if name == ".rodata" {
			_ = m.Close() // held by the programs
		}
	}
	m := op.coll.Maps
	return &bpfRecords{watched: m["watched"], recents: m["recent"], ooms: m["ooms"], stats: m["stats"], filter: op.filter, lock: op.lock}
}

// abort leaves what was there before.
func (op *opener) abort() {
	_ = unpin(op.fresh)
	for _, l := range op.links {
		_ = l.Close()
	}
	if op.coll != nil {
		op.coll.Close()
	}
	for _, m := range op.keep {
		_ = m.Close()
	}
	op.closeSources()
	if op.lock != nil {
		_ = op.lock.Close()
	}
}

func (op *opener) closeSources() {
	for _, s := range op.srcs {
		_ = s.m.Close()
	}
	closeMaps(op.oldOOM)
}
