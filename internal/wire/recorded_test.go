package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"brink/internal/release"
	"brink/internal/wire/clusterconfig"
	"brink/internal/wire/jointoken"
	"brink/internal/wire/nodekey"
	"brink/internal/wire/noderights"
	"brink/internal/wire/nodeuser"
	"brink/internal/wire/tunnelwire"
)

var record = flag.String("record", "", "write what this version says into testdata, under the version of a release")

// recorded is what a release puts on the wire, and keeps on disk to say later. Agents of three
// minor versions speak with one server: what any of them has said must go on being understood,
// and what is said to them must stay what they understand.
type recorded struct {
	// Said by the server, understood by agents of every release.
	ClusterSettings string           `json:"clusterSettings"`
	TokenStatus     jointoken.Status `json:"tokenStatus"`
	// Said by agents, understood by the server.
	Token              string `json:"token"`
	NodePassword       string `json:"nodePassword"`
	PublicKey          string `json:"publicKey"`
	RequestProof       string `json:"requestProof"`
	CertificateProof   string `json:"certificateProof"`
	Request            string `json:"request"`
	CertificateSubject string `json:"certificateSubject"`
	// Names are what both sides must call the same.
	Names map[string]string `json:"names"`
}

// names are the paths, headers, annotations and words of the wire.
var names = map[string]string{
	"path of the CA": jointoken.CAPath, "path of a token's status": jointoken.StatusPath,
	"valid token": string(jointoken.Valid), "expired token": string(jointoken.Expired), "deleted token": string(jointoken.Deleted), "unknown token": string(jointoken.Unknown),
	"namespace of the settings": clusterconfig.Namespace, "name of the settings": clusterconfig.Name, "key of the settings": clusterconfig.Key,
	"annotation of a proof": nodekey.Annotation, "annotation of a node": nodekey.NodeAnnotation,
	"header of a node's proof": noderights.Proof, "header of a refusal": noderights.Header,
	"deleted node": noderights.Deleted, "replaced node": noderights.Replaced,
	"path of the tunnel": tunnelwire.Path, "protocol of the tunnel": tunnelwire.Protocol,
	"header of the revision": tunnelwire.Revision, "target of the kubelet": tunnelwire.Kubelet,
}

// settings are some, of both families.
const settings = `{"clusterCIDRs":["10.42.0.0/16","fd42::/48"],"serviceCIDRs":["10.43.0.0/16","fd43::/112"],"clusterDNS":["10.43.0.10"],"clusterDomain":"cluster.local","networkBackend":"vxlan","clientCA":"-----BEGIN CERTIFICATE-----"}`

// say is what this version says.
func say(t *testing.T) recorded {
	t.Helper()
	config, err := clusterconfig.Decode(settings)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := config.Encode()
	if err != nil {
		t.Fatal(err)
	}
	password := strings.Repeat("5a", 32)
	path := filepath.Join(t.TempDir(), "node-password")
	if err := os.WriteFile(path, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := nodekey.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	request := []byte("a certificate request, or a certificate")
	since := time.Date(2026, time.November, 30, 12, 0, 0, 0, time.UTC)
	token := jointoken.Token{CAHash: strings.Repeat("0a", 32), ID: "abc123", Secret: "0123456789abcdef"}
	return recorded{
		ClusterSettings: encoded, TokenStatus: jointoken.Status{State: jointoken.Expired, Since: &since},
		Token: token.Text(), NodePassword: password, PublicKey: string(key.Public()),
		RequestProof: key.Prove(request), CertificateProof: key.ProveCertificate(request), Request: base64.StdEncoding.EncodeToString(request),
		CertificateSubject: nodeuser.Subject("till-1").String(), Names: names,
	}
}

// TestRecorded has this version read what each release has said, and say the same.
func TestRecorded(t *testing.T) {
	now := say(t)
	if *record != "" {
		writeRecord(t, now)
	}
	files, err := filepath.Glob("testdata/v*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no release is recorded (%v): go test ./internal/wire -record VERSION", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var then recorded
		if err := json.Unmarshal(text, &then); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		then.understood(t, file)
		for what, name := range then.Names {
			if now.Names[what] != name {
				t.Errorf("%s: the %s was %q and is %q", file, what, name, now.Names[what])
			}
		}
		// A new key in the settings, which agents ignore, is no difference.
		if !holds(t, now.ClusterSettings, then.ClusterSettings) {
			t.Errorf("%s: agents of that release read the settings\n%s\nand would be told\n%s", file, then.ClusterSettings, now.ClusterSettings)
		}
		if then.CertificateSubject != now.CertificateSubject || then.PublicKey != now.PublicKey {
			t.Errorf("%s: a machine is known by another name or key", file)
		}
	}
}

// understood reads what a release has said.
func (r recorded) understood(t *testing.T, file string) {
	t.Helper()
	if _, err := clusterconfig.Decode(r.ClusterSettings); err != nil {
		t.Errorf("%s: %v", file, err)
	}
	if token, err := jointoken.Parse(r.Token); err != nil || token.Text() != r.Token {
		t.Errorf("%s: %v (%v)", file, token, err)
	}
	request, err := base64.StdEncoding.DecodeString(r.Request)
	if err != nil {
		t.Fatal(err)
	}
	if public, err := nodekey.Verify(r.RequestProof, request); err != nil || string(public) != r.PublicKey {
		t.Errorf("%s: the proof of a request is of %s (%v)", file, public, err)
	}
	if public, err := nodekey.VerifyCertificate(r.CertificateProof, request); err != nil || string(public) != r.PublicKey {
		t.Errorf("%s: the proof of a certificate is of %s (%v)", file, public, err)
	}
	if _, err := hex.DecodeString(r.NodePassword); err != nil || r.TokenStatus.State != jointoken.Expired || r.TokenStatus.Since == nil {
		t.Errorf("%s: %+v (%v)", file, r.TokenStatus, err)
	}
}

// holds reports whether all keys of one JSON object are in another, with the same values.
func holds(t *testing.T, object, part string) bool {
	t.Helper()
	var whole, want map[string]any
	if err := json.Unmarshal([]byte(object), &whole); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(part), &want); err != nil {
		t.Fatal(err)
	}
	for key, value := range want {
		if !reflect.DeepEqual(whole[key], value) {
			return false
		}
	}
	return true
}

// writeRecord writes a file once: a release does not change what it has said.
func writeRecord(t *testing.T, r recorded) {
	t.Helper()
	if v, err := release.ParseVersion(*record); err != nil || v.Dev != "" {
		t.Fatalf("-record wants the version of a release (%v)", err)
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(r); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join("testdata", *record+".json"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(text.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
