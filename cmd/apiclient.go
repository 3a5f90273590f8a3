package cmd

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"brink/internal/layout"
	"brink/internal/wire/jointoken"
)

// apiClient asks the API server with the administrator's kubeconfig.
type apiClient struct {
	layout layout.Layout
	from   string // the kubeconfig that was used, for errors
	config *rest.Config
	client kubernetes.Interface
}

// apiTimeout is long enough for a board that is busy.
const apiTimeout = 30 * time.Second

// apiFlags are the flags of a command that asks the API server, with more of its own.
func apiFlags(more ...cli.Flag) []cli.Flag {
	hidden := writeKubeconfigFlag().(*cli.StringFlag) // the node's configuration may name the file by it
	hidden.Hidden = true
	kubeconfig := &cli.StringFlag{Name: "kubeconfig", Category: groupData,
		Usage: "kubeconfig `FILE` (default: the KUBECONFIG variable, else that of the node on this machine)"}
	return pathFlags(append([]cli.Flag{kubeconfig, hidden}, more...)...)
}

// newAPIClient finds the kubeconfig as kubectl does, with the node's own in place of
// the one in the home directory: tokens are for the cluster of this machine.
func newAPIClient(c *cli.Context) (*apiClient, error) {
	here, err := pathsOf(c)
	if err != nil {
		return nil, err
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: c.String("kubeconfig")}
	from := rules.ExplicitPath
	if list := os.Getenv(clientcmd.RecommendedConfigPathEnvVar); from == "" && list != "" {
		rules, from = clientcmd.NewDefaultClientConfigLoadingRules(), "KUBECONFIG="+list
	} else if from == "" {
		rules.ExplicitPath, from = here.kubeconfig, here.kubeconfig
	}
	if err := checkReadable(rules.ExplicitPath, here.kubeconfig); err != nil {
		return nil, err
	}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig %s: %w", from, err)
	}
	config.Timeout, config.QPS = apiTimeout, -1
	client, err := kubernetes.NewForConfig(config)
	return &apiClient{layout: here.layout, from: from, config: config, client: client}, err
}

// checkReadable explains why the kubeconfig at path cannot be read; own is that of the
// node on this machine. An empty path is no error.
func checkReadable(path, own string) error {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	switch {
	case err == nil:
		return f.Close()
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s is readable by root only: use sudo", path)
	case errors.Is(err, fs.ErrNotExist) && path == own:
		return fmt.Errorf("%s does not exist: is this a server, and has it been started? elsewhere give --kubeconfig", path)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("kubeconfig %s does not exist", path)
	}
	return fmt.Errorf("reading the kubeconfig: %w", err)
}

// explain returns an error that says what err, from the API, means here and what to do.
func (a *apiClient) explain(err error) error {
	var netErr net.Error
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%s answers with a certificate of another CA than that in %s", a.config.Host, a.from)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s does not accept the credentials in %s: are they of another cluster, or expired?", a.config.Host, a.from)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("the user of %s may not do this: %w", a.from, err)
	case errors.As(err, &netErr) && netErr.Timeout():
		return fmt.Errorf("brink does not answer at %s within %s: see brink status", a.config.Host, apiTimeout)
	case errors.As(err, &netErr):
		return fmt.Errorf("brink does not answer at %s: is it running? %w", a.config.Host, rootOf(err))
	}
	return err
}

// rootOf returns err without the method and the URL of the request.
func rootOf(err error) error {
	var urlErr *url.Error
	if errors.As(err, &urlErr) {
		return urlErr.Err
	}
	return err
}

// caHash returns the hash of the CA by which the API server is verified.
func (a *apiClient) caHash() (string, error) {
	config := rest.CopyConfig(a.config)
	if err := rest.LoadTLSFiles(config); err != nil {
		return "", fmt.Errorf("reading the CA named in %s: %w", a.from, err)
	}
	if len(config.CAData) == 0 {
		return "", fmt.Errorf("%s has no CA of the cluster, and a token holds its fingerprint: use the kubeconfig that the server wrote", a.from)
	}
	hash, err := jointoken.HashCA(config.CAData)
	if err != nil {
		return "", fmt.Errorf("reading the CA in %s: %w", a.from, err)
	}
	return hash, nil
}

func httpsURL(host string, port int) string {
	return "https://" + net.JoinHostPort(host, strconv.Itoa(port))
}
