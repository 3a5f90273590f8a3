package token

import (
	"encoding/pem"
	"log/slog"
	"net/http"
	"os"
)

// CACerts answers jointoken.CAPath with the certificates in the file at path, and
// with nothing else that may have got into it.
func CACerts(path string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isRead(w, r) {
			return
		}
		bundle, err := os.ReadFile(path)
		if err != nil {
			slog.Error("answering with the server CA", "component", "join-requests", "error", err)
			http.Error(w, "the server cannot read its CA", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/x-pem-file")
		for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
			if block.Type == "CERTIFICATE" {
				_, _ = w.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
			}
		}
	})
}
