package host

import (
	"fmt"
	"slices"
	"strings"
)

// defaultPods is the range of pods where the cluster's own is not known yet.
const defaultPods = "10.42.0.0/16"

// opened are the ports that have to be open to other machines, in the form of ufw and
// firewalld, "6443/tcp". The kubelet's is asked from outside by few, so nobody is warned
// for it, and it is named with the others.
func (o CheckOptions) opened() []string {
	var out []string
	for _, p := range o.Ports {
		if p.Public {
			out = append(out, p.slash())
		}
	}
	return out
}

func (p Port) slash() string {
	if p.UDP {
		return fmt.Sprintf("%d/udp", p.Number)
	}
	return fmt.Sprintf("%d/tcp", p.Number)
}

func (o CheckOptions) pods() string {
	if o.PodRange == "" {
		return defaultPods
	}
	return o.PodRange
}

// checkFirewalld asks a running firewalld what it lets in.
func (m machine) checkFirewalld(o CheckOptions) Check {
	const name = "firewalld"
	if len(m.running("firewalld")) == 0 {
		return ok(name, "does not run")
	}
	if zone, err := m.run("", "firewall-cmd", "--get-default-zone"); err == nil && zone == "trusted" {
		return ok(name, "lets all in")
	}
	var closed, lines []string
	for _, port := range o.opened() {
		if out, _ := m.run("", "firewall-cmd", "--query-port="+port); out != "yes" {
			closed, lines = append(closed, port), append(lines, "--add-port="+port)
		}
	}
	var add []string
	if len(lines) > 0 {
		add = append(add, "firewall-cmd --permanent "+strings.Join(lines, " "))
	}
	if out, _ := m.run("", "firewall-cmd", "--zone=trusted", "--query-source="+o.pods()); out != "yes" {
		closed = append(closed, "pods ("+o.pods()+")")
		add = append(add, "firewall-cmd --permanent --zone=trusted --add-source="+o.pods())
	}
	if len(closed) == 0 {
		return ok(name, "lets brink's ports and pods in")
	}
	return warn(name, strings.Join(append(add, "firewall-cmd --reload"), " && "), "firewalld keeps out %s", strings.Join(closed, ", "))
}

// checkUFW reads the rules of an enabled ufw from its file: the program would start
// iptables many times.
func (m machine) checkUFW(o CheckOptions) Check {
	const name = "ufw"
	if !slices.Contains(strings.Fields(strings.ToLower(m.read("etc/ufw/ufw.conf"))), "enabled=yes") {
		return ok(name, "is not enabled")
	}
	rules := ufwRules(m.read("etc/ufw/user.rules"))
	var closed, add []string
	for _, port := range o.opened() {
		if !rules.allowPort(port) {
			closed, add = append(closed, port), append(add, "ufw allow "+port)
		}
	}
	if !rules.allowFrom("allow", o.pods()) {
		closed, add = append(closed, "pods ("+o.pods()+") to this machine"), append(add, "ufw allow from "+o.pods())
	}
	forward := strings.ToLower(m.read("etc/default/ufw"))
	if !strings.Contains(forward, `default_forward_policy="accept"`) && !rules.allowFrom("route:allow", o.pods()) {
		closed = append(closed, "pods ("+o.pods()+") to others")
		add = append(add, "ufw route allow from "+o.pods(), "ufw route allow to "+o.pods())
	}
	if len(closed) == 0 {
		return ok(name, "lets brink's ports and pods in")
	}
	return warn(name, strings.Join(add, " && "), "ufw keeps out %s", strings.Join(closed, ", "))
}

// ufwRule is a line "### tuple ### ACTION PROTOCOL PORT TO FROMPORT FROM DIRECTION".
type ufwRule struct{ action, protocol, port, from string }

type ufwRuleset []ufwRule

func ufwRules(text string) ufwRuleset {
	var out ufwRuleset
	for line := range strings.Lines(text) {
		tuple, ok := strings.CutPrefix(strings.TrimSpace(line), "### tuple ### ")
		if words := strings.Fields(tuple); ok && len(words) >= 6 {
			out = append(out, ufwRule{words[0], words[1], words[2], words[5]})
		}
	}
	return out
}

func (r ufwRuleset) allowPort(port string) bool {
	number, protocol, _ := strings.Cut(port, "/")
	return slices.ContainsFunc(r, func(rule ufwRule) bool {
		return rule.action == "allow" && (rule.protocol == "any" || rule.protocol == protocol) && slices.Contains(strings.Split(rule.port, ","), number)
	})
}

func (r ufwRuleset) allowFrom(action, source string) bool {
	return slices.ContainsFunc(r, func(rule ufwRule) bool {
		return rule.action == action && rule.port == "any" && rule.from == source
	})
}

// checkLegacyIPTables looks at the tables that nft does not show. They are listed only if
// the kernel has them already: the program would load them.
func (m machine) checkLegacyIPTables(o CheckOptions) Check {
	const name, program = "iptables-legacy", "iptables-legacy"
	if !slices.Contains(strings.Fields(m.read("proc/net/ip_tables_names")), "filter") || m.program(program) == "" {
		return ok(name, "has no rules")
	}
	rules, err := m.run("", program, "-S", "FORWARD")
	if err != nil || !strings.Contains(rules, "-P FORWARD DROP") || strings.Contains(rules, "-s "+o.pods()+" -j ACCEPT") {
		return ok(name, "lets packets of pods through")
	}
	return warn(name, fmt.Sprintf("%[1]s -I FORWARD -s %[2]s -j ACCEPT && %[1]s -I FORWARD -d %[2]s -j ACCEPT, or remove its rules if nothing needs them", program, o.pods()),
		"rules of iptables-legacy drop forwarded packets, pods may reach no other node and no outside")
}
