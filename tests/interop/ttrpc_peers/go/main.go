// A ttRPC peer for tests: "serve SOCKET" is a server, "call SOCKET" a client of the suite's
// contracts, on the Go library. Both talk to the test in lines of tab-separated words; see
// tests/support/ttrpc_peers.py for what they mean.
//
// The messages are those of guest/protos, whose first field is all that is used: the well-known
// wrappers have the same bytes, so that no generated code is needed.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

var output sync.Mutex

func say(words ...string) {
	output.Lock()
	defer output.Unlock()
	fmt.Println(strings.Join(words, "\t"))
}

func getTeeType(ctx context.Context, unmarshal func(interface{}) error) (interface{}, error) {
	if err := unmarshal(&emptypb.Empty{}); err != nil {
		return nil, err
	}
	return wrapperspb.String("sample"), nil
}

func getEvidence(ctx context.Context, unmarshal func(interface{}) error) (interface{}, error) {
	asked := &wrapperspb.BytesValue{}
	if err := unmarshal(asked); err != nil {
		return nil, err
	}
	return wrapperspb.Bytes([]byte(strconv.Itoa(len(asked.Value)))), nil
}

func getResource(ctx context.Context, unmarshal func(interface{}) error) (interface{}, error) {
	asked := &wrapperspb.StringValue{}
	if err := unmarshal(asked); err != nil {
		return nil, err
	}
	what, argument, _ := strings.Cut(asked.Value, ":")
	say("started", what)
	switch what {
	case "fail":
		return nil, status.Error(codes.Internal, "[CDH] [ERROR]: Get Resource failed")
	case "empty":
		return &emptypb.Empty{}, nil
	case "size":
		size, err := strconv.Atoi(argument)
		if err != nil {
			return nil, err
		}
		return wrapperspb.Bytes(make([]byte, size)), nil
	case "metadata":
		found, _ := ttrpc.GetMetadata(ctx)
		values, _ := found.Get(argument)
		return wrapperspb.Bytes([]byte(strings.Join(values, ","))), nil
	case "wait":
		<-ctx.Done()
		say("cancelled", what)
		return nil, ctx.Err()
	}
	return wrapperspb.Bytes([]byte("value of " + asked.Value)), nil
}

func serve(path string) error {
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	server.Register("attestation_agent.AttestationAgentService", map[string]ttrpc.Method{
		"GetTeeType": getTeeType, "GetEvidence": getEvidence,
	})
	server.Register("api.GetResourceService", map[string]ttrpc.Method{"GetResource": getResource})
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(context.Background(), listener) }()
	say("ready")
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // the test is gone, or wants the server to go
		failed <- server.Close()
	}()
	return <-failed
}

// call makes one call of the line: number, service, method, payload, nanoseconds, metadata.
func call(client *ttrpc.Client, words []string) {
	payload, err := hex.DecodeString(words[3])
	if err != nil {
		say(words[0], "error", err.Error())
		return
	}
	asked, answered := &emptypb.Empty{}, &emptypb.Empty{}
	asked.ProtoReflect().SetUnknown(payload) // as they are on the wire
	ctx := context.Background()
	if nano, _ := strconv.ParseInt(words[4], 10, 64); nano != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(nano))
		defer cancel()
	}
	metadata := ttrpc.MD{}
	for _, pair := range strings.Fields(words[5]) {
		key, value, _ := strings.Cut(pair, "=")
		metadata.Append(key, value)
	}
	ctx = ttrpc.WithMetadata(ctx, metadata)
	err = client.Call(ctx, words[1], words[2], asked, answered)
	if err == nil {
		data, _ := proto.Marshal(answered)
		say(words[0], "ok", hex.EncodeToString(data))
	} else if found, ok := status.FromError(err); ok {
		say(words[0], "status", strconv.Itoa(int(found.Code())), found.Message())
	} else {
		say(words[0], "error", err.Error())
	}
}

func callAll(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	say("ready")
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		words := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(words) != 6 {
			return fmt.Errorf("%d words in a line", len(words))
		}
		go call(client, words)
	}
}

func main() {
	roles := map[string]func(string) error{"serve": serve, "call": callAll}
	if len(os.Args) != 3 || roles[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: peer serve|call SOCKET")
		os.Exit(2)
	}
	if err := roles[os.Args[1]](os.Args[2]); err != nil && !errors.Is(err, ttrpc.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
