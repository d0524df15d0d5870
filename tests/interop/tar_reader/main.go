// Command tar_reader tells what Go's archive/tar sees in archives.
//
// Standard input: archives, each after its length (8 bytes, big endian).
// Standard output: one JSON array of entries for each, a line; null for an archive that is refused.
package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
)

type entry struct {
	Flag   byte   `json:"flag"`
	Name   []byte `json:"name"`
	Link   []byte `json:"link"`
	Size   int64  `json:"size"`
	Mode   int64  `json:"mode"`
	UID    int    `json:"uid"`
	GID    int    `json:"gid"`
	Mtime  int64  `json:"mtime"`
	Major  int64  `json:"major"`
	Minor  int64  `json:"minor"`
	Digest string `json:"digest"`
}

// A length that no test archive has: a sparse file of more is named, not read.
const mostRead = 1 << 26

func read(archive []byte) []entry {
	entries := []entry{}
	reader := tar.NewReader(bytes.NewReader(archive))
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			return nil
		}
		digest := ""
		if header.Size <= mostRead {
			hash := sha256.New()
			if _, err := io.Copy(hash, reader); err != nil {
				return nil
			}
			digest = hex.EncodeToString(hash.Sum(nil))
		}
		seconds := header.ModTime
		entries = append(entries, entry{
			header.Typeflag, []byte(header.Name), []byte(header.Linkname), header.Size, header.Mode,
			header.Uid, header.Gid, seconds.Unix(), header.Devmajor, header.Devminor, digest,
		})
	}
}

func main() {
	input := bufio.NewReader(os.Stdin)
	output := json.NewEncoder(os.Stdout)
	for {
		var length uint64
		if binary.Read(input, binary.BigEndian, &length) != nil {
			return
		}
		archive := make([]byte, length)
		if _, err := io.ReadFull(input, archive); err != nil {
			os.Exit(1)
		}
		if err := output.Encode(read(archive)); err != nil {
			os.Exit(1)
		}
	}
}
