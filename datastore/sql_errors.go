package datastore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"
)

// passing are the classes and codes with which PostgreSQL refuses what it may
// accept a moment later: https://www.postgresql.org/docs/current/errcodes-appendix.html
var passing = []string{
	"08",                      // connection exception
	"25006",                   // read only: a standby that has not been promoted
	"40001", "40P01", "55P03", // serialization failure, deadlock, lock not available
	"53", // insufficient resources: disk full, out of memory, too many connections
	"57", // operator intervention: shutdown, crash, starting up, statement cancelled
	"58", // system error: I/O
}

// passingMySQL are MySQL's and MariaDB's errors of the same kinds:
// https://mariadb.com/kb/en/mariadb-error-codes/
var passingMySQL = []uint16{
	1021, 1037, 1038, 1040, 1041, // disk full, out of memory, too many connections
	1053, 1077, 1079, 1080, 1152, 1184, // shutting down, connection aborted
	1114,             // table full, which is the disk
	1205, 1213, 1614, // lock wait, deadlock
	1203, 1226, 1129, // a user's or a host's share is used up
	1290, 1792, 1836, // read only
	1317, 1927, 3024, // query or connection killed
	1158, 1159, 1160, 1161, // network
}

// refusing are PostgreSQL's answers to a wrong password, a missing permission and
// a missing database: waiting mends none of them.
var refusing = []string{"28", "42501", "3D000"}

var refusingMySQL = []uint16{1044, 1045, 1049, 1130, 1142, 1227, 1251, 1698}

// missing are the answers when there is no such database yet.
var missing = []string{"3D000"}

var missingMySQL = []uint16{1049}

// answered reports whether err is the answer of a database that starts with one
// of the codes, or is one of the numbers.
func answered(err error, codes []string, numbers []uint16) bool {
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
		return slices.ContainsFunc(codes, func(c string) bool { return strings.HasPrefix(pgErr.Code, c) })
	}
	if myErr := (*mysql.MySQLError)(nil); errors.As(err, &myErr) {
		return slices.Contains(numbers, myErr.Number)
	}
	return false
}

// unanswered reports whether a statement failed because there is no database that
// could answer it, rather than by its answer.
func unanswered(err error) bool {
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
		return answered(err, passing, nil)
	}
	if myErr := (*mysql.MySQLError)(nil); errors.As(err, &myErr) {
		return answered(err, nil, passingMySQL)
	}
	if etcdUnanswered(err) {
		return true
	}
	for _, gone := range []error{
		driver.ErrBadConn, sql.ErrConnDone, mysql.ErrInvalidConn, mysql.ErrMalformPkt, pgconn.ErrConnClosed,
		io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, gone) {
			return true
		}
	}
	var errno syscall.Errno
	var netErr net.Error
	var connectErr *pgconn.ConnectError
	return errors.As(err, &errno) || errors.As(err, &netErr) || errors.As(err, &connectErr) || pgconn.SafeToRetry(err)
}

// worthWaiting reports whether a database that could not be reached may be there
// later without a change of settings.
func worthWaiting(err error) bool {
	var unknownCA x509.UnknownAuthorityError
	var wrongName x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verification *tls.CertificateVerificationError
	if errors.As(err, &unknownCA) || errors.As(err, &wrongName) || errors.As(err, &invalid) || errors.As(err, &verification) {
		return false
	}
	return unanswered(err) && !answered(err, refusing, refusingMySQL)
}

// oneLine is an error on one line. pgx lists every way it tried on a line of its
// own, with and without TLS: the last one says most.
func oneLine(err error) error {
	text := strings.TrimSpace(err.Error())
	if at := strings.LastIndexByte(text, '\n'); at >= 0 {
		return errors.New(strings.Join(strings.Fields(text[at:]), " "))
	}
	return err
}
