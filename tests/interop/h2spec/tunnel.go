package main

import (
	"bytes"
	"encoding/binary"
	"io"

	"golang.org/x/net/http2/hpack"
)

const (
	preface         = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	headerSize      = 9
	frameHeaders    = 1
	flagEndHeaders  = 0x04
	flagPadded      = 0x08
	flagPriority    = 0x20
	priorityPayload = 5
)

// rewriter makes the requests of h2spec, which are GET and POST, CONNECT requests for one target, so that its streams are
// tunnels. Every other frame passes as it is, and so do blocks in several frames or with padding.
type rewriter struct {
	authority string
	decoder   *hpack.Decoder
	seen      map[uint32]bool
}

func (r *rewriter) copy(to io.Writer, from io.Reader) error {
	first := make([]byte, len(preface))
	n, err := io.ReadFull(from, first)
	if _, failed := to.Write(first[:n]); failed != nil || err != nil {
		return failed
	}
	if string(first) != preface {
		_, err := io.Copy(to, from)
		return err
	}
	for {
		header := make([]byte, headerSize)
		n, err := io.ReadFull(from, header)
		if err != nil {
			to.Write(header[:n])
			return err
		}
		payload := make([]byte, int(header[0])<<16|int(header[1])<<8|int(header[2]))
		n, err = io.ReadFull(from, payload)
		if err == nil && header[3] == frameHeaders {
			payload = r.block(header, payload)
			n = len(payload)
		}
		if _, failed := to.Write(append(header, payload[:n]...)); failed != nil || err != nil {
			return failed
		}
	}
}

// block returns the payload of a HEADERS frame anew, and sets its length in the frame's header.
func (r *rewriter) block(header, payload []byte) []byte {
	flags, stream := header[4], binary.BigEndian.Uint32(header[5:])
	if flags&flagEndHeaders == 0 || flags&flagPadded != 0 {
		return payload
	}
	prefix := 0
	if flags&flagPriority != 0 {
		prefix = priorityPayload
	}
	if len(payload) < prefix {
		return payload
	}
	fields, err := r.decoder.DecodeFull(payload[prefix:])
	if err != nil {
		return payload
	}
	var out bytes.Buffer
	out.Write(payload[:prefix])
	encoder := hpack.NewEncoder(&out)
	request := !r.seen[stream]
	r.seen[stream] = true
	for _, field := range fields {
		field.Sensitive = true // in no table: the server's has not seen the blocks that h2spec's encoder has
		switch {
		case !request:
		case field.Name == ":method":
			field.Value = "CONNECT"
		case field.Name == ":authority":
			field.Value = r.authority
		case field.Name == ":scheme" || field.Name == ":path":
			continue
		}
		encoder.WriteField(field)
	}
	size := out.Len()
	header[0], header[1], header[2] = byte(size>>16), byte(size>>8), byte(size)
	return out.Bytes()
}
