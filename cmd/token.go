package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/kubernetes"

	"brink/internal/wire/jointoken"
	"brink/server/token"
)

func tokenCommand() *cli.Command {
	return &cli.Command{
		Name:     "token",
		Usage:    "make, list and delete the tokens with which machines join",
		Category: "Use",
		Action:   groupAction,
		Subcommands: []*cli.Command{{
			Name:  "create",
			Usage: "make a token and print it",
			Description: "Whoever has it can add machines to the cluster until it expires; machines that have joined\n" +
				"do not need it any more. It holds the fingerprint of the cluster's CA, by which a machine\n" +
				"knows that it joins this cluster and no other.",
			Flags: apiFlags(
				&cli.StringFlag{Name: "ttl", Value: "24h", Usage: "`TIME` until it expires, such as 30m, 24h or 7d; 0 is never"},
				&cli.StringFlag{Name: "description", Usage: "`TEXT` shown by brink token list"},
				&cli.BoolFlag{Name: "print-join-command", Usage: "print the command for the machine that joins, instead of the token"},
			),
			OnUsageError: usageError,
			Action:       createToken,
		}, {
			Name:    "list",
			Aliases: []string{"ls"},
			Usage:   "list the tokens, without their secrets",
			Description: "A server's own token, in DATA-DIR/server/token, does not expire. One that has expired is\n" +
				"listed for a week. Bootstrap tokens that are not in the group " + token.Group + "\n" +
				"are other people's and not listed.",
			Flags:        apiFlags(outputFlag()),
			OnUsageError: usageError,
			Action:       listTokens,
		}, {
			Name:         "delete",
			Aliases:      []string{"rm"},
			Usage:        "delete tokens: no machine joins by them any more, those that have joined stay",
			ArgsUsage:    "ID|TOKEN...",
			Flags:        apiFlags(),
			OnUsageError: usageError,
			Action:       deleteTokens,
		}},
	}
}

func createToken(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	ttl, err := parseTTL(c.String("ttl"))
	if err != nil {
		return err
	}
	if err := checkDescription(c.String("description")); err != nil {
		return err
	}
	a, err := newAPIClient(c)
	if err != nil {
		return err
	}
	hash, err := a.caHash()
	if err != nil {
		return err
	}
	made := jointoken.New(hash)
	line := made.Text()
	if c.Bool("print-join-command") {
		url, err := serverURL(c.Context, a.client)
		if err != nil {
			return a.explain(err)
		}
		line = "brink agent --server " + url + " --token " + line
	}
	secret := token.NewSecret(made, ttl, c.String("description"))
	if _, err := a.client.CoreV1().Secrets(secret.Namespace).Create(c.Context, secret, metav1.CreateOptions{}); err != nil {
		return a.explain(err)
	}
	fmt.Println(line)
	return nil
}

// minTTL is the shortest that leaves time to use the token.
const minTTL = time.Minute

// parseTTL parses one of Go's durations, or a number of days such as 7d.
func parseTTL(text string) (time.Duration, error) {
	wrong := fmt.Errorf("--ttl=%s: not a time such as 30m, 24h or 7d, or 0 for never", text)
	ttl, err := time.ParseDuration(text)
	if days, isDays := strings.CutSuffix(text, "d"); isDays {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		ttl = time.Duration(n) * 24 * time.Hour
	}
	switch {
	case err != nil:
		return 0, wrong
	case ttl < 0 || ttl > 0 && ttl < minTTL:
		return 0, fmt.Errorf("--ttl=%s: must be at least 1m, or 0 for never", text)
	}
	return ttl, nil
}

const maxDescription = 200

func checkDescription(text string) error {
	switch {
	case strings.ContainsFunc(text, unicode.IsControl):
		return errors.New("--description: must be one line of text")
	case utf8.RuneCountInString(text) > maxDescription:
		return fmt.Errorf("--description: must have at most %d characters, has %d", maxDescription, utf8.RuneCountInString(text))
	}
	return nil
}

// serverURL returns where other machines reach the API server: the address that it has
// published for pods.
func serverURL(ctx context.Context, client kubernetes.Interface) (string, error) {
	slice, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if len(slice.Endpoints) == 0 || len(slice.Endpoints[0].Addresses) == 0 || len(slice.Ports) == 0 || slice.Ports[0].Port == nil {
		return "", errors.New("the API server has not published its address: leave out --print-join-command")
	}
	return httpsURL(slice.Endpoints[0].Addresses[0], int(*slice.Ports[0].Port)), nil
}

func listTokens(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	a, err := newAPIClient(c)
	if err != nil {
		return err
	}
	tokens, err := token.List(c.Context, a.client)
	if err != nil {
		return a.explain(err)
	}
	if asJSON {
		return printJSON(describe(tokens, time.Now()))
	}
	return printTokens(os.Stdout, tokens, time.Now())
}

// describedToken is a token with its state, so that readers of the JSON need not
// compute it.
type describedToken struct {
	token.Token
	State jointoken.State `json:"state"`
}

func describe(tokens []token.Token, now time.Time) []describedToken {
	out := []describedToken{} // [] in JSON, not null
	for _, t := range tokens {
		out = append(out, describedToken{t, t.State(now)})
	}
	return out
}

func printTokens(out io.Writer, tokens []token.Token, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tEXPIRES\tDESCRIPTION")
	for _, t := range tokens {
		fmt.Fprintf(w, "%s\t%s\t%s\n", t.ID, expires(t, now), t.Description)
	}
	return w.Flush()
}

func expires(t token.Token, now time.Time) string {
	switch {
	case t.Expires == nil:
		return "never"
	case t.State(now) == jointoken.Expired:
		return "expired"
	}
	return "in " + duration.HumanDuration(t.Expires.Sub(now))
}

func deleteTokens(c *cli.Context) error {
	if c.NArg() == 0 {
		return errors.New("brink token delete: name at least one token by its ID, see brink token list")
	}
	var ids []string
	for _, arg := range c.Args().Slice() {
		id, err := tokenID(arg)
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	a, err := newAPIClient(c)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		switch err := token.Delete(c.Context, a.client, id); {
		case errors.Is(err, token.ErrNotFound):
			errs = append(errs, fmt.Errorf("there is no join token %s: see brink token list", id))
		case errors.Is(err, token.ErrServerToken):
			errs = append(errs, fmt.Errorf("token %s is a server's own: to replace it, remove %s on the server and restart brink", id, a.layout.ServerToken()))
		case err != nil:
			return errors.Join(append(errs, a.explain(err))...)
		default:
			fmt.Println("deleted token", id)
		}
	}
	return errors.Join(errs...)
}

// tokenID returns the id of a token that is given by its id or whole. No error repeats
// more of arg than an id.
func tokenID(arg string) (string, error) {
	if jointoken.IsID(arg) {
		return arg, nil
	}
	if id, _, _ := strings.Cut(arg, "."); jointoken.IsBootstrap(arg) {
		return id, nil
	}
	parsed, err := jointoken.Parse(arg)
	if err != nil && len(arg) < 16 { // too short for a secret
		return "", fmt.Errorf("%q is not a token's id, 6 characters of a-z and 0-9: see brink token list", arg)
	}
	return parsed.ID, err
}
