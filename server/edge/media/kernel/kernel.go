// Package kernel relays RTP inside the Linux kernel: a program on the way in of the
// interfaces (tc, attached by tcx links) readdresses the packets of plain bridges, and no
// process wakes up for them. What is in any way out of the ordinary goes up to the
// process, which sees the same packets as without the program.
//
// The program is written in C and not in Go's assembler for eBPF, because it can then be
// read against the RFCs, and the compiler lays out the memory that both sides share.
// Packets that the kernel relays pass none of its filters (netfilter), in or out; the first
// of each call do, and a flow through a NAT of this machine is left to the process.
//
// Nothing is pinned: links and maps die with the process, however it ends.
package kernel

//go:generate sh -c "go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel -type flow -cflags \"-O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/$(uname -m)-linux-gnu\" relay relay.c && sha256sum relay.c relay_bpfel.o relay_bpfel.go > relay.sum"

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Relay is the program in the kernel, with a slot for each pair of ports.
type Relay struct {
	addr    netip.Addr
	from    uint16
	objects relayObjects
	memory  []byte // of the map: one relayFlow for each pair

	mu    sync.Mutex
	links map[int]link.Link // by interface
}

const slotSize = int(unsafe.Sizeof(relayFlow{}))

// Open loads the program for the port pairs of a range (from is even, to odd) and attaches
// it where RTP for addr can arrive: on loopback and on the interface that holds addr, or,
// when addr is unspecified, on all that carry Ethernet.
func Open(addr netip.Addr, from, to uint16) (*Relay, error) {
	if from%2 != 0 || to <= from {
		return nil, fmt.Errorf("ports %d to %d: want an even one and at least the odd one above it", from, to)
	}
	return open(addr, from, (uint32(to)-uint32(from)+1)/2)
}

// open takes any port as the first, for the probe.
func open(addr netip.Addr, from uint16, pairs uint32) (*Relay, error) {
	spec, err := loadRelay()
	if err != nil {
		return nil, err
	}
	spec.Maps[relayMapFlows].MaxEntries = pairs
	if err = spec.Variables[relayVarFirstPort].Set(from); err == nil {
		err = spec.Variables[relayVarPairs].Set(pairs)
	}
	if err != nil {
		return nil, err
	}
	r := &Relay{addr: addr.Unmap(), from: from, links: map[int]link.Link{}}
	if err := spec.LoadAndAssign(&r.objects, nil); err != nil {
		return nil, explain("load the program", err)
	}
	size := int(pairs) * slotSize
	if r.memory, err = unix.Mmap(r.objects.Flows.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		_ = r.Close()
		return nil, explain("share the program's map", err)
	}
	for i := range int(pairs) {
		r.slot(i).Owner = ownerTaken // nothing is attached yet, so nobody reads
	}
	if err := r.Attach(); err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

func explain(what string, err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%s: %w (needs CAP_BPF and CAP_NET_ADMIN)", what, err)
	}
	if errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("%s: %w (needs Linux 6.6)", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Attach attaches the program to interfaces that have appeared, and forgets those that
// have gone. The error says on which it failed; the others are served.
func (r *Relay) Attach() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	want, err := interfacesFor(r.addr)
	if err != nil {
		return err
	}
	for at, l := range r.links {
		if !slices.Contains(want, at) {
			_ = l.Close()
			delete(r.links, at)
		}
	}
	var failed error
	for _, at := range want {
		if r.links[at] != nil {
			continue
		}
		l, err := link.AttachTCX(link.TCXOptions{Interface: at, Program: r.objects.Relay, Attach: ebpf.AttachTCXIngress})
		if err != nil {
			failed = errors.Join(failed, explain(fmt.Sprintf("attach to interface %d", at), err))
			continue
		}
		r.links[at] = l
	}
	return failed
}

// interfacesFor lists where packets for addr arrive. The program reads Ethernet headers,
// which loopback has too; a tunnel without them is left to the process.
func interfacesFor(addr netip.Addr) ([]int, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var want []int
	for _, at := range all {
		loopback := at.Flags&net.FlagLoopback != 0
		if !loopback && len(at.HardwareAddr) != 6 {
			continue
		}
		if loopback || addr.IsUnspecified() || holds(at, addr) {
			want = append(want, at.Index)
		}
	}
	return want, nil
}

func holds(at net.Interface, addr netip.Addr) bool {
	prefixes, err := at.Addrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(prefixes, func(a net.Addr) bool {
		prefix, err := netip.ParsePrefix(a.String())
		return err == nil && prefix.Addr() == addr
	})
}

// Close detaches the program and frees its memory; flows must not be used any more.
func (r *Relay) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for at, l := range r.links {
		_ = l.Close()
		delete(r.links, at)
	}
	var err error
	if r.memory != nil {
		err = unix.Munmap(r.memory)
		r.memory = nil
	}
	return errors.Join(err, r.objects.Close())
}

func (r *Relay) slot(i int) *relayFlow {
	return (*relayFlow)(unsafe.Pointer(&r.memory[i*slotSize]))
}

// Flow returns the slot of an RTP port of the range.
func (r *Relay) Flow(port uint16) *Flow { return &Flow{shared: r.slot(int(port-r.from) / 2)} }
