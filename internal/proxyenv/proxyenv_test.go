package proxyenv

import (
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"testing"

	"brink/internal/testprocess"
)

// clear leaves none of the variables for the test.
func clear(t *testing.T) {
	t.Helper()
	for _, names := range [][]string{proxies, exceptions} {
		for _, name := range names {
			t.Setenv(name, "")
		}
	}
}

func TestExclude(t *testing.T) {
	for _, tc := range []struct {
		name string
		env  map[string]string
		want string
	}{
		{"no proxy", nil, ""},
		{"no proxy but exceptions", map[string]string{"NO_PROXY": "a.example"}, "a.example"},
		{"a proxy", map[string]string{"HTTPS_PROXY": "http://p:3128"}, "localhost,127.0.0.0/8,::1,.svc,10.42.0.0/16,edge-1"},
		{"in small letters", map[string]string{"http_proxy": "http://p:3128", "no_proxy": "a.example, .svc"}, "a.example,.svc,localhost,127.0.0.0/8,::1,10.42.0.0/16,edge-1"},
		{"both exceptions", map[string]string{"http_proxy": "http://p:3128", "no_proxy": "b", "NO_PROXY": "a"}, "a,localhost,127.0.0.0/8,::1,.svc,10.42.0.0/16,edge-1"},
		{"all is excepted", map[string]string{"HTTP_PROXY": "http://p:3128", "NO_PROXY": "*"}, "*,localhost,127.0.0.0/8,::1,.svc,10.42.0.0/16,edge-1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			clear(t)
			for name, value := range tc.env {
				t.Setenv(name, value)
			}
			for range 2 { // the second adds nothing
				if err := Exclude("10.42.0.0/16", "edge-1"); err != nil {
					t.Fatal(err)
				}
			}
			if got := os.Getenv("NO_PROXY"); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// TestGoAgrees asks Go's own reading of the variables, which a process does once.
func TestGoAgrees(t *testing.T) {
	if testprocess.Argument() == "" {
		testprocess.MustPass(t, "child")
		return
	}
	clear(t)
	t.Setenv("HTTPS_PROXY", "http://192.0.2.9:3128")
	ranges := []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd42::/56")}
	if err := Exclude(append(Ranges(ranges), "cluster.local", "edge-1", "192.0.2.1", "2001:db8::1")...); err != nil {
		t.Fatal(err)
	}
	for target, wantProxy := range map[string]bool{
		"https://registry.example/": true, "https://192.0.2.2/": true,
		"https://10.42.1.2:5000/": false, "https://[fd42::17]/": false, "https://edge-1:10250/": false,
		"https://hook.shop.svc/": false, "https://hook.shop.svc.cluster.local/": false, "https://localhost:6443/": false,
		"https://127.0.0.3/": false, "https://192.0.2.1:6443/": false, "https://[2001:db8::1]:6443/": false,
	} {
		u, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
		if err != nil || (proxy != nil) != wantProxy {
			t.Errorf("%s goes through %v (%v), want a proxy: %v", target, proxy, err, wantProxy)
		}
	}
}
