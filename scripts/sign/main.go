// Command sign makes the key of releases and signs by it.
//
//	sign new FILE          makes a key: PKCS #8 in PEM, as openssl genpkey does, mode 0600
//	sign public FILE       prints its public part, as package internal/release takes it
//	sign ssh-public FILE   prints it as ssh-keygen -Y verify takes it
//	sign FILE SUMS         signs SUMS: writes SUMS.sig and SUMS.sshsig
//
// Both signatures are by the same Ed25519 key: one is for openssl and brink itself, the
// other for ssh-keygen.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"brink/internal/atomicfile"
)

// namespace is what signatures for ssh-keygen are for, so that none of another use of the
// same key is taken for one.
const namespace = "brink"

func main() {
	if err := run(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sign:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, args []string) error {
	if len(args) != 2 {
		return errors.New("usage: sign new FILE | sign public FILE | sign ssh-public FILE | sign FILE SUMS")
	}
	if args[0] == "new" {
		return newKey(args[1])
	}
	print := map[string]func(ed25519.PublicKey) (string, error){"public": publicLine, "ssh-public": sshLine}[args[0]]
	if print == nil {
		return sign(args[0], args[1])
	}
	key, err := readKey(args[1])
	if err != nil {
		return err
	}
	line, err := print(key.Public().(ed25519.PublicKey))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, line)
	return err
}

// newKey writes a key to a file that must not exist: nobody gets a lost key back.
func newKey(path string) error {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der}), f.Sync(), f.Close())
}

func readKey(path string) (ed25519.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others than its owner: chmod 600 it, or make another key", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s is no key in PEM", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if k, ok := key.(ed25519.PrivateKey); ok {
		return k, nil
	}
	return nil, fmt.Errorf("%s is %T, not Ed25519", path, key)
}

func publicLine(key ed25519.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	return base64.StdEncoding.EncodeToString(der), err
}

func sshLine(key ed25519.PublicKey) (string, error) {
	return "ssh-ed25519 " + base64.StdEncoding.EncodeToString(sshKey(key)), nil
}

func sign(keyFile, sumsFile string) error {
	key, err := readKey(keyFile)
	if err != nil {
		return err
	}
	sums, err := os.ReadFile(sumsFile)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(sumsFile+".sig", ed25519.Sign(key, sums), 0o644); err != nil {
		return err
	}
	return atomicfile.Write(sumsFile+".sshsig", sshSignature(key, sums), 0o644)
}

// sshString is a string of SSH's wire format: its length and itself (RFC 4251, section 5).
func sshString(s []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...)
}

func sshStrings(list ...string) []byte {
	var out []byte
	for _, s := range list {
		out = append(out, sshString([]byte(s))...)
	}
	return out
}

func sshKey(key ed25519.PublicKey) []byte { return sshStrings("ssh-ed25519", string(key)) }

// sshSignature is in the format of OpenSSH's PROTOCOL.sshsig: what is signed is not the
// message but its hash with what it is for.
func sshSignature(key ed25519.PrivateKey, message []byte) []byte {
	const magic, reserved, hash = "SSHSIG", "", "sha512"
	sum := sha512.Sum512(message)
	signed := append([]byte(magic), sshStrings(namespace, reserved, hash, string(sum[:]))...)
	signature := sshStrings("ssh-ed25519", string(ed25519.Sign(key, signed)))

	blob := binary.BigEndian.AppendUint32([]byte(magic), 1) // the format's version
	public := sshKey(key.Public().(ed25519.PublicKey))
	blob = append(blob, sshStrings(string(public), namespace, reserved, hash, string(signature))...)
	return armor(blob)
}

// armor writes base64 in lines of 70, as ssh-keygen does.
func armor(blob []byte) []byte {
	out := bytes.NewBufferString("-----BEGIN SSH SIGNATURE-----\n")
	text := base64.StdEncoding.EncodeToString(blob)
	for len(text) > 0 {
		n := min(70, len(text))
		fmt.Fprintln(out, text[:n])
		text = text[n:]
	}
	out.WriteString("-----END SSH SIGNATURE-----\n")
	return out.Bytes()
}
