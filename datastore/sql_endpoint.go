package datastore

import (
	"context"
	"crypto/tls"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	kinetls "github.com/k3s-io/kine/pkg/tls"
)

// endpoint is a PostgreSQL or MySQL as the configuration names it. It is what
// connections beside kine's are made with: those that wait for the database, and
// that hold it.
type endpoint struct {
	place     string // for people, without user and password
	mysql     bool
	connector driver.Connector
	// create is how a database is made that is not there, beside kine, which
	// warns of it. It is nil where kine does not.
	create func(ctx context.Context) error
}

// defaultDatabase is what kine calls the database when the endpoint does not.
const defaultDatabase = "kubernetes"

// quietMySQL keeps the driver from printing each broken connection on standard error.
var quietMySQL = sync.OnceFunc(func() { _ = mysql.SetLogger(&mysql.NopLogger{}) })

// parseEndpoint understands c.Endpoint as kine's drivers do. No error repeats
// it, as it may hold a password.
func (c Config) parseEndpoint() (endpoint, error) {
	scheme, address, _ := strings.Cut(c.Endpoint, "://")
	if scheme == "mysql" {
		quietMySQL() // before a connector is made, which keeps the logger of then
		return c.parseMySQL(address)
	}
	return c.parsePostgres(address)
}

func (c Config) parsePostgres(address string) (endpoint, error) {
	u, err := url.Parse("postgres://" + address)
	if err != nil {
		return endpoint{}, fmt.Errorf("datastore endpoint: not a URL as postgres://USER:PASSWORD@HOST:PORT/DATABASE; special characters in it must be percent-encoded")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/" + defaultDatabase
	}
	u.Path = strings.ToLower(u.Path)
	query := u.Query()
	for name, file := range map[string]string{"sslcert": c.CertFile, "sslkey": c.KeyFile, "sslrootcert": c.CAFile} {
		if file == "" || query.Has(name) {
			continue
		}
		query.Set(name, file)
		if !query.Has("sslmode") {
			query.Set("sslmode", "verify-full")
		}
	}
	u.RawQuery = query.Encode()
	config, err := pgx.ParseConfig(u.String())
	if err != nil {
		return endpoint{}, fmt.Errorf("datastore endpoint: not one that PostgreSQL's driver understands; check its parameters and the files for TLS")
	}
	config.DialFunc = newDialer().DialContext
	return endpoint{
		place:     fmt.Sprintf("postgres://%s/%s", hostPort(config.Host, config.Port), config.Database),
		connector: stdlib.GetConnector(*config),
	}, nil
}

// hostPort is a host and its port, or the directory of a unix socket.
func hostPort(host string, port uint16) string {
	if strings.HasPrefix(host, "/") {
		return host
	}
	return net.JoinHostPort(host, fmt.Sprint(port))
}

func (c Config) parseMySQL(address string) (endpoint, error) {
	settings, err := kinetls.Config{CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile}.ClientConfig()
	if err != nil {
		return endpoint{}, fmt.Errorf("reading the datastore's TLS files: %w", err)
	}
	if address == "" {
		address = "root@unix(/var/run/mysqld/mysqld.sock)/"
		if settings != nil {
			address = "root@tcp(127.0.0.1)/"
		}
	}
	config, err := mysql.ParseDSN(address)
	if err != nil {
		return endpoint{}, fmt.Errorf("datastore endpoint: not of the form mysql://USER:PASSWORD@tcp(HOST:PORT)/DATABASE")
	}
	if settings != nil {
		settings.MinVersion = tls.VersionTLS12
		config.TLS = settings
	}
	if config.DBName == "" {
		config.DBName = defaultDatabase
	}
	config.DialFunc = newDialer().DialContext
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return endpoint{}, fmt.Errorf("datastore endpoint: not one that MySQL's driver understands: check its parameters")
	}
	return endpoint{
		place: fmt.Sprintf("mysql://%s/%s", config.Addr, config.DBName), mysql: true, connector: connector,
		create: func(ctx context.Context) error { return createMySQL(ctx, config) },
	}, nil
}

func createMySQL(ctx context.Context, config *mysql.Config) error {
	outside := config.Clone()
	outside.DBName = ""
	connector, err := mysql.NewConnector(outside)
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	_, err = db.ExecContext(ctx, "CREATE DATABASE IF NOT EXISTS `"+strings.ReplaceAll(config.DBName, "`", "``")+"`")
	return err
}

func newDialer() *net.Dialer { return &net.Dialer{Timeout: answerTime, KeepAlive: 10 * time.Second} }
