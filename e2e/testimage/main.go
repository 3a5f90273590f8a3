// Command testimage is the program in the images of the end-to-end tests: a
// small server, a client that never stops asking, an admission webhook, and a
// pod's own call to the API.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "testimage:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		args = []string{"serve"}
	}
	switch mode := args[0]; {
	case mode == "serve":
		return serve(ctx)
	case mode == "load" && len(args) == 2:
		return load(ctx, args[1])
	case mode == "webhook":
		return webhook(ctx)
	case mode == "get" && len(args) == 2:
		body, err := get(newClient(), args[1])
		fmt.Print(body)
		return err
	case mode == "reach" && len(args) > 1:
		return reach(args[1:])
	case mode == "send" && len(args) == 3:
		return send(args[1], args[2])
	case mode == "api" && len(args) == 2:
		return askAPI(ctx, args[1])
	default:
		return fmt.Errorf("unknown arguments %q", args)
	}
}

// serve answers on 8080 over HTTP, on 8081 over UDP and on 8082 over plain TCP.
func serve(ctx context.Context) error {
	go answerUDP(":8081")
	go answerTCP(":8082")
	return listen(ctx, &http.Server{Addr: ":8080", Handler: newServer()})
}

// newServer has two kinds of paths: those that name the pod that answered, and switches
// (/set/NAME/off, /check/NAME) that probes look at and tests turn. The one that
// the environment variable BEGIN_OFF names begins off.
func newServer() http.Handler {
	var mu sync.Mutex
	off := map[string]bool{os.Getenv("BEGIN_OFF"): true}
	mux := http.NewServeMux()
	mux.HandleFunc("/hostname", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, hostname()) })
	mux.HandleFunc("/version", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, version()) })
	mux.HandleFunc("/validate", validate) // as the webhook, for requests by the API server's proxy
	mux.HandleFunc("/clientip", func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprint(w, host)
	})
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		all, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = w.Write(all)
	})
	mux.HandleFunc("/sleep/{duration}", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(r.PathValue("duration"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		time.Sleep(d)
		fmt.Fprint(w, "slept")
	})
	mux.HandleFunc("/set/{name}/{state}", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		off[r.PathValue("name")] = r.PathValue("state") == "off"
		fmt.Fprint(w, "ok")
	})
	mux.HandleFunc("/check/{name}", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if off[r.PathValue("name")] {
			http.Error(w, r.PathValue("name")+" is off", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "ok")
	})
	return mux
}

// listen serves until ctx is done, then lets running requests end.
func listen(ctx context.Context, srv *http.Server) error {
	go func() {
		<-ctx.Done()
		bye, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = srv.Shutdown(bye)
	}()
	var err error
	if srv.TLSConfig != nil {
		err = srv.ListenAndServeTLS("", "")
	} else {
		err = srv.ListenAndServe()
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// send sends one datagram, whose bytes are given in hexadecimal.
func send(to, payload string) error {
	data, err := hex.DecodeString(payload)
	if err != nil {
		return err
	}
	conn, err := net.Dial("udp", to)
	if err != nil {
		return err
	}
	_, err = conn.Write(data)
	return errors.Join(err, conn.Close())
}

func answerUDP(addr string) {
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testimage: udp:", err)
		return
	}
	buf := make([]byte, 1<<16)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		answer := []byte(hostname())
		if n > 1 { // whoever asks sends one byte
			answer = buf[:n]
		}
		_, _ = conn.WriteTo(answer, from)
	}
}

func answerTCP(addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testimage: tcp:", err)
		return
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, hostname())
		_ = conn.Close()
	}
}

// stats is what a load client has seen. Every request opens a connection of its
// own, so that each one goes through the service's rules again.
type stats struct {
	mu       sync.Mutex
	Requests int            `json:"requests"`
	Failures []string       `json:"failures"`
	Answers  map[string]int `json:"answers"`
}

func (s *stats) add(answer string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Requests++
	if err != nil {
		s.Failures = append(s.Failures, time.Now().Format(time.TimeOnly)+" "+err.Error())
		return
	}
	s.Answers[answer]++
}

func (s *stats) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = json.NewEncoder(w).Encode(s)
}

// load asks url again and again and shows on 8080 what came back.
func load(ctx context.Context, url string) error {
	s := &stats{Answers: map[string]int{}}
	client := newClient()
	go func() {
		for ctx.Err() == nil {
			s.add(get(client, url))
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return listen(ctx, &http.Server{Addr: ":8080", Handler: s})
}

// newClient opens a connection for every request.
func newClient() *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
}

func get(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), nil
}

// review is the part of an AdmissionReview that the webhook needs.
type review struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Request    *struct {
		UID    string `json:"uid"`
		Object struct {
			Metadata struct {
				Labels map[string]string `json:"labels"`
			} `json:"metadata"`
		} `json:"object"`
	} `json:"request,omitempty"`
	Response map[string]any `json:"response,omitempty"`
}

// webhook refuses objects labelled e2e=refuse, with the certificate in /tls.
func webhook(ctx context.Context) error {
	cert, err := tls.LoadX509KeyPair("/tls/tls.crt", "/tls/tls.key")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	mux.HandleFunc("/validate", validate)
	return listen(ctx, &http.Server{Addr: ":8443", Handler: mux,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}})
}

func validate(w http.ResponseWriter, r *http.Request) {
	var in review
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Request == nil {
		http.Error(w, "not an AdmissionReview", http.StatusBadRequest)
		return
	}
	response := map[string]any{"uid": in.Request.UID, "allowed": true}
	if in.Request.Object.Metadata.Labels["e2e"] == "refuse" {
		response["allowed"] = false
		response["status"] = map[string]any{"message": "the e2e webhook refuses this object"}
	}
	in.Request, in.Response = nil, response
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(in)
}

// askAPI is what any client in a pod does: the kubernetes Service's address from
// the environment, the mounted CA and the mounted token.
func askAPI(ctx context.Context, path string) error {
	const dir = "/var/run/secrets/kubernetes.io/serviceaccount/"
	ca, err := os.ReadFile(dir + "ca.crt")
	if err != nil {
		return err
	}
	token, err := os.ReadFile(dir + "token")
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{Timeout: 30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	api := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+api+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	fmt.Println(resp.StatusCode)
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return err.Error()
	}
	return name
}

func version() string {
	b, err := os.ReadFile("/version")
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
}
