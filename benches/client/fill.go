package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/content"
	"github.com/containerd/containerd/leases"
	"github.com/containerd/containerd/namespaces"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
)

const (
	layersOfImage = 8
	writers       = 8
)

// fill registers images; each has ten blobs that are small and its own. A lease keeps
// them until the last one is registered.
func fill(conn *grpc.ClientConn, store content.Store, count int64) time.Duration {
	began := time.Now()
	ctx := namespaces.WithNamespace(context.Background(), "default")
	images, held := imagesapi.NewImagesClient(conn), leasesapi.NewLeasesClient(conn)
	_, err := held.Create(ctx, &leasesapi.CreateRequest{ID: "fill"})
	check(err)
	ctx = leases.WithLease(ctx, "fill")
	numbers := make(chan int64)
	var all sync.WaitGroup
	for range [writers]struct{}{} {
		all.Add(1)
		go func() {
			defer all.Done()
			for number := range numbers {
				add(ctx, store, images, number)
			}
		}()
	}
	for number := int64(0); number < count; number++ {
		numbers <- number
	}
	close(numbers)
	all.Wait()
	_, err = held.Delete(ctx, &leasesapi.DeleteRequest{ID: "fill"})
	check(err)
	return time.Since(began)
}

func add(ctx context.Context, store content.Store, images imagesapi.ImagesClient, number int64) {
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	labels := map[string]string{}
	config := fmt.Sprintf(`{"architecture":"amd64","os":"linux","created":"2024-01-01T00:00:%02dZ","author":"%d","rootfs":{"type":"layers","diff_ids":[]}}`, number%60, number)
	manifest.Config = put(ctx, store, []byte(config), ocispec.MediaTypeImageConfig, nil)
	labels["containerd.io/gc.ref.content.config"] = manifest.Config.Digest.String()
	for layer := 0; layer < layersOfImage; layer++ {
		data := []byte(fmt.Sprintf("layer %d of image %d", layer, number))
		blob := put(ctx, store, data, ocispec.MediaTypeImageLayer, nil)
		manifest.Layers = append(manifest.Layers, blob)
		labels[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", layer)] = blob.Digest.String()
	}
	document, err := json.Marshal(manifest)
	check(err)
	target := put(ctx, store, document, ocispec.MediaTypeImageManifest, labels)
	_, err = images.Create(ctx, &imagesapi.CreateImageRequest{Image: imagesapi.Image{
		Name:   fmt.Sprintf("localhost/bench/image%d:1", number),
		Target: types.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size_: target.Size},
	}})
	check(err)
}

func put(ctx context.Context, store content.Store, data []byte, mediaType string, labels map[string]string) ocispec.Descriptor {
	target := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	writer, err := store.Writer(ctx, content.WithRef("fill-"+target.Digest.String()), content.WithDescriptor(target))
	check(err)
	defer writer.Close()
	_, err = writer.Write(data)
	check(err)
	check(writer.Commit(ctx, target.Size, target.Digest, content.WithLabels(labels)))
	return target
}
