// Command client writes one blob through containerd's content API, or reads it,
// with containerd's own Go client, and prints the seconds that it took.
//
//	client write|read|readat SOCKET BYTES
//	client fill SOCKET IMAGES
//
// The bytes are made up beforehand, the same in every run. `write` sends them as
// ctr does, a message of 1 MiB at a time, each answered, and commits with the
// digest that is expected; `read` asks once for all; `readat` for 1 MiB at a time.
// `fill` registers so many images of ten small blobs each in the default namespace.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/containerd/content"
	contentproxy "github.com/containerd/containerd/content/proxy"
	"github.com/containerd/containerd/leases"
	"github.com/containerd/containerd/namespaces"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
)

const chunk = 1 << 20

// bytesOf gives a blob as many buffers; no two of them are the same.
func bytesOf(size int64) ([][]byte, digest.Digest) {
	state := uint64(0x9e3779b97f4a7c15)
	hash := sha256.New()
	var all [][]byte
	for size > 0 {
		length := int64(chunk)
		if size < length {
			length = size
		}
		part := make([]byte, chunk)
		for at := 0; at < chunk; at += 8 {
			state ^= state << 13
			state ^= state >> 7
			state ^= state << 17
			binary.LittleEndian.PutUint64(part[at:], state)
		}
		all = append(all, part[:length])
		hash.Write(part[:length])
		size -= length
	}
	return all, digest.NewDigest(digest.SHA256, hash)
}

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: client write|read|readat|fill SOCKET BYTES|IMAGES")
	}
	size, err := strconv.ParseInt(os.Args[3], 10, 64)
	check(err)
	conn, err := grpc.Dial("unix://"+os.Args[2], grpc.WithInsecure(), grpc.WithAuthority("localhost"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20), grpc.MaxCallSendMsgSize(16<<20)))
	check(err)
	defer conn.Close()
	ctx := namespaces.WithNamespace(context.Background(), "bench")
	ctx = leases.WithLease(ctx, "bench")
	client := contentapi.NewContentClient(conn)
	store := contentproxy.NewContentStore(client)
	if os.Args[1] == "fill" {
		fmt.Printf("%.6f\n", fill(conn, store, size).Seconds())
		return
	}
	data, name := bytesOf(size)
	target := ocispec.Descriptor{Digest: name, Size: size}
	var took time.Duration
	switch os.Args[1] {
	case "write":
		lease := leasesapi.CreateRequest{ID: "bench"}
		_, err = leasesapi.NewLeasesClient(conn).Create(ctx, &lease)
		check(err)
		took = write(ctx, store, data, target)
	case "read":
		took = read(ctx, client, target)
	case "readat":
		took = readAt(ctx, store, target)
	default:
		log.Fatalf("unknown command %q", os.Args[1])
	}
	fmt.Printf("%.6f\n", took.Seconds())
}

func write(ctx context.Context, store content.Store, data [][]byte, target ocispec.Descriptor) time.Duration {
	began := time.Now()
	writer, err := store.Writer(ctx, content.WithRef("bench"), content.WithDescriptor(target))
	check(err)
	for _, part := range data {
		_, err = writer.Write(part)
		check(err)
	}
	check(writer.Commit(ctx, target.Size, target.Digest))
	took := time.Since(began)
	writer.Close()
	return took
}

func read(ctx context.Context, client contentapi.ContentClient, target ocispec.Descriptor) time.Duration {
	began := time.Now()
	stream, err := client.Read(ctx, &contentapi.ReadContentRequest{Digest: target.Digest})
	check(err)
	var total int64
	for {
		answer, err := stream.Recv()
		if err == io.EOF {
			break
		}
		check(err)
		total += int64(len(answer.Data))
	}
	took := time.Since(began)
	if total != target.Size {
		log.Fatalf("read %d bytes of %d", total, target.Size)
	}
	return took
}

func readAt(ctx context.Context, store content.Store, target ocispec.Descriptor) time.Duration {
	began := time.Now()
	reader, err := store.ReaderAt(ctx, target)
	check(err)
	defer reader.Close()
	buffer := make([]byte, chunk)
	var total int64
	for total < target.Size {
		n, err := reader.ReadAt(buffer, total)
		if err != nil && err != io.EOF {
			check(err)
		}
		total += int64(n)
	}
	return time.Since(began)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
