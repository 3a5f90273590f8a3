package host

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Result is the result of a check.
type Result string

// The results of a check. A node starts with warnings but not with failures.
const (
	OK   Result = "ok"
	Warn Result = "warn"
	Fail Result = "fail"
)

// Check is one thing that was checked.
type Check struct {
	// Name is what was checked: lower case, a few words.
	Name   string `json:"name"`
	Result Result `json:"result"`
	// Message is what was found, and where.
	Message string `json:"message"`
	// Fix is what the owner of the machine should do, empty when OK.
	Fix string `json:"fix,omitempty"`
}

// String returns one line for a user.
func (c Check) String() string {
	if c.Fix == "" {
		return c.Message
	}
	return c.Message + ": " + c.Fix
}

// CheckOptions says what a node needs from the machine.
type CheckOptions struct {
	// DataDir is where the node keeps everything; it need not exist.
	DataDir string
	// NodeName is the name the node will have. It is not checked when empty.
	NodeName string
	// Ports are those that the node will listen on.
	Ports []Port
	// NotBefore is a time that has certainly passed: when this binary was built, or the
	// start of the latest certificate. When zero, the clock is not checked.
	NotBefore time.Time
	// Synchronized is true if a time server has been reached.
	Synchronized bool
	// Joins is true for a machine that joins a server elsewhere.
	Joins bool
	// PodRange is the range of pods' addresses, empty when it is not known yet.
	PodRange string
	// VXLAN is true if the pod network needs the kernel's VXLAN.
	VXLAN bool
	// ControlPlaneOnly is true if no pods will run here: what only pods need is not
	// checked.
	ControlPlaneOnly bool
	// Start is true for a start, which refuses and gives no advice: what can only warn is
	// left out, but for what a start logs.
	Start bool
	// NFT is the version of the nft that brink carries, empty if it carries none.
	NFT string
	// PID is the process of a running brink, whose own ports count as free, or zero. So
	// do those of this process.
	PID int
}

// Port is a port that the node will listen on.
type Port struct {
	Number uint16
	UDP    bool // instead of TCP
	// Address it will listen on; the zero value is all addresses.
	Address netip.Addr
	// For is what listens, as in "API server". Flag moves it, as in
	// "--https-listen-port", and may be empty.
	For, Flag string
	// Public is true if other machines need the port.
	Public bool
}

// Checks checks whether this machine can be a node. It changes nothing, except that it may
// load kernel modules, which a node needs anyway, and that it mounts a probe in DataDir
// when that exists.
func Checks(opts CheckOptions) []Check {
	m := thisMachine()
	facts, err := m.look()
	if err != nil {
		return []Check{{Name: "proc", Result: Fail, Message: err.Error()}}
	}
	return m.checks(facts, opts)
}

// Failed returns nil or an error with one line for each failure among checks.
func Failed(checks []Check) error {
	var errs []error
	for _, c := range checks {
		if c.Result == Fail {
			errs = append(errs, errors.New(c.String()))
		}
	}
	return errors.Join(errs...)
}

func (m machine) checks(f Facts, o CheckOptions) []Check {
	checks := []Check{checkRoot(f)}
	if !o.ControlPlaneOnly {
		checks = append(checks, m.podChecks(f, o)...)
	}
	checks = append(checks, checkMemory(f, o.Joins))
	if !o.Start {
		checks = append(checks, m.checkSwap())
	}
	checks = append(checks, m.checkFiles(f, o.PID), m.checkUnit(o.PID))
	if o.DataDir != "" {
		checks = append(checks, m.checkDataDir(o.DataDir, !o.ControlPlaneOnly)...)
	}
	checks = append(checks, m.checkPorts(o)...)
	if !o.NotBefore.IsZero() {
		checks = append(checks, checkClock(time.Now(), o, f))
	}
	if o.NodeName != "" {
		checks = append(checks, checkNodeName(o.NodeName))
	}
	return checks
}

// podChecks checks what only pods need.
func (m machine) podChecks(f Facts, o CheckOptions) []Check {
	checks := []Check{
		checkCapabilities(f),
		m.checkMemoryCgroup(f),
		checkControllers(f),
		checkCgroupsWritable(f),
		checkCgroupVersion(f),
		checkCgroupDriver(f),
		m.checkKernel(f),
		checkSeccomp(f),
		checkNFT(f, o.NFT),
	}
	checks = append(checks, m.checkFeatures(f, o.VXLAN)...)
	checks = append(checks, m.checkHosts())
	checks = append(checks, m.checkForwarding(), m.checkBridged(), m.checkReversePath(), m.checkInotify())
	if o.Start {
		return checks
	}
	checks = append(checks, m.checkFirewalld(o), m.checkUFW(o), m.checkLegacyIPTables(o))
	checks = append(checks, m.checkNetworkManager(), m.checkDHCPCD(), m.checkNetworkd())
	return append(checks, m.checkLeftovers(), m.checkAppArmor(f), m.checkSELinux())
}

func ok(name, format string, args ...any) Check {
	return Check{Name: name, Result: OK, Message: fmt.Sprintf(format, args...)}
}

func warn(name, fix, format string, args ...any) Check {
	return Check{Name: name, Result: Warn, Message: fmt.Sprintf(format, args...), Fix: fix}
}

func fail(name, fix, format string, args ...any) Check {
	return Check{Name: name, Result: Fail, Message: fmt.Sprintf(format, args...), Fix: fix}
}
