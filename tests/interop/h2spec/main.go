// Runs the cases of h2spec against an HBONE server, which asks for a client certificate: h2spec speaks plain HTTP/2 to a relay
// in this process, and the relay speaks TLS to the server. One JSON object per case on stdout.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
	hpacktable "golang.org/x/net/http2/hpack"
)

type outcome struct {
	Case   string `json:"case"` // "http2/6.9.1/2"
	Text   string `json:"text"`
	Result string `json:"result"` // passed, failed, skipped
	Why    string `json:"why,omitempty"`
}

func main() {
	target := flag.String("target", "", "address:port of the server")
	certificate := flag.String("cert", "", "PEM file")
	key := flag.String("key", "", "PEM file")
	root := flag.String("root", "", "PEM file")
	connect := flag.String("connect", "", "make every request a CONNECT for this target")
	timeout := flag.Duration("timeout", 2*time.Second, "of a case that waits for an answer")
	flag.Parse()
	if err := run(*target, *connect, *certificate, *key, *root, *timeout); err != nil {
		fmt.Fprintln(os.Stderr, "h2spec:", err)
		os.Exit(1)
	}
}

func run(target, connect, certificate, key, root string, timeout time.Duration) error {
	secure, err := clientConfig(certificate, key, root)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		for {
			plain, err := listener.Accept()
			if err != nil {
				return
			}
			go relay(plain.(*net.TCPConn), target, connect, secure)
		}
	}()
	stdout := os.Stdout
	os.Stdout = os.Stderr // what h2spec itself prints
	port := listener.Addr().(*net.TCPAddr).Port
	settings := &config.Config{Host: "127.0.0.1", Port: port, Path: "/", Timeout: timeout, MaxHeaderLen: 4000, Strict: true}
	report := json.NewEncoder(stdout)
	for _, group := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		group.Test(settings)
		if err := write(report, group); err != nil {
			return err
		}
	}
	return nil
}

func write(report *json.Encoder, group *spec.TestGroup) error {
	for number, test := range append(append([]*spec.TestCase{}, group.Tests...), group.StrictTests...) {
		one := outcome{Case: fmt.Sprintf("%s/%d", group.ID(), number+1), Text: test.Desc, Result: "passed"}
		switch {
		case test.Result == nil || test.Result.Skipped:
			one.Result = "skipped"
		case test.Result.Failed:
			one.Result = "failed"
			one.Why = fmt.Sprint(test.Result.Error)
			var detail *spec.TestError
			if errors.As(test.Result.Error, &detail) {
				one.Why = fmt.Sprintf("expected %q, got %q", detail.Expected, detail.Actual)
			}
		}
		if err := report.Encode(one); err != nil {
			return err
		}
	}
	for _, below := range group.Groups {
		if err := write(report, below); err != nil {
			return err
		}
	}
	return nil
}

// The chain is verified; the name is not, as the server is known by a SPIFFE identity.
func clientConfig(certificate, key, root string) (*tls.Config, error) {
	own, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(root)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate", root)
	}
	verify := func(state tls.ConnectionState) error {
		if state.NegotiatedProtocol != "h2" {
			return fmt.Errorf("ALPN: %q", state.NegotiatedProtocol)
		}
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots})
		return err
	}
	return &tls.Config{Certificates: []tls.Certificate{own}, InsecureSkipVerify: true, VerifyConnection: verify,
		NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13}, nil
}

// Bytes both ways. The end of either side ends both: h2spec knows no half-closed connections.
func relay(plain *net.TCPConn, target, connect string, secure *tls.Config) {
	defer plain.Close()
	server, err := tls.Dial("tcp", target, secure)
	if err != nil {
		fmt.Fprintln(os.Stderr, "relay:", err)
		return
	}
	defer server.Close()
	over := make(chan struct{}, 2)
	go func() {
		io.Copy(plain, server)
		plain.CloseWrite()
		over <- struct{}{}
	}()
	go func() {
		if connect == "" {
			io.Copy(server, plain)
		} else {
			tunnel := rewriter{authority: connect, decoder: hpacktable.NewDecoder(4096, nil), seen: map[uint32]bool{}}
			tunnel.copy(server, plain)
		}
		over <- struct{}{}
	}()
	<-over
}
