// Package operation asks a server for its health and for descriptions of what it
// serves, with Go's own gRPC stubs and containerd's own messages.
//
// DIST_ADDRESS is the server's unix socket; DIST_SERVICES are the full names of all
// the services that it has to have, separated by spaces.
package operation

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"testing"
	"time"

	_ "github.com/containerd/containerd/api/events"
	_ "github.com/containerd/containerd/api/services/content/v1"
	_ "github.com/containerd/containerd/api/services/diff/v1"
	_ "github.com/containerd/containerd/api/services/events/v1"
	_ "github.com/containerd/containerd/api/services/images/v1"
	_ "github.com/containerd/containerd/api/services/introspection/v1"
	_ "github.com/containerd/containerd/api/services/leases/v1"
	_ "github.com/containerd/containerd/api/services/namespaces/v1"
	_ "github.com/containerd/containerd/api/services/snapshots/v1"
	_ "github.com/containerd/containerd/api/services/version/v1"
	gogo "github.com/gogo/protobuf/proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/health" // lets channels watch the health of their servers
	healthapi "google.golang.org/grpc/health/grpc_health_v1"
	reflectionapi "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

const unserved = "containerd.services.sandbox.v1.Store"

func dial(t *testing.T, more ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	options := append(more, grpc.WithInsecure(), grpc.WithBlock(), grpc.WithAuthority("localhost"))
	conn, err := grpc.DialContext(ctx, "unix://"+os.Getenv("DIST_ADDRESS"), options...)
	if err != nil {
		t.Fatalf("dialing: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func services() []string {
	names := strings.Fields(os.Getenv("DIST_SERVICES"))
	sort.Strings(names)
	return names
}

func TestHealth(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	conn := dial(t)
	client := healthapi.NewHealthClient(conn)
	for _, name := range append(services(), "") {
		if strings.HasPrefix(name, "grpc.") {
			continue
		}
		asked := &healthapi.HealthCheckRequest{Service: name}
		checked, err := client.Check(ctx, asked)
		if err != nil || checked.Status != healthapi.HealthCheckResponse_SERVING {
			t.Errorf("check of %q: %v, %v", name, checked, err)
		}
		watch, err := client.Watch(ctx, asked)
		if err != nil {
			t.Fatalf("watch of %q: %v", name, err)
		}
		if first, err := watch.Recv(); err != nil || first.Status != healthapi.HealthCheckResponse_SERVING {
			t.Errorf("watch of %q: %v, %v", name, first, err)
		}
	}
	asked := &healthapi.HealthCheckRequest{Service: unserved}
	if _, err := client.Check(ctx, asked); status.Code(err) != codes.NotFound {
		t.Errorf("check of a service that is none: %v", err)
	}
	watch, err := client.Watch(ctx, asked)
	if err != nil {
		t.Fatal(err)
	}
	if first, err := watch.Recv(); err != nil || first.Status != healthapi.HealthCheckResponse_SERVICE_UNKNOWN {
		t.Errorf("watch of a service that is none: %v, %v", first, err)
	}
	answer := new(healthapi.HealthCheckResponse)
	if err := conn.Invoke(ctx, "/grpc.health.v1.Health/List", asked, answer); status.Code(err) != codes.Unimplemented {
		t.Errorf("list: %v", err)
	}
}

// A channel that watches its server is ready when the server says so.
func TestHealthOfAChannel(t *testing.T) {
	dial(t, grpc.WithDefaultServiceConfig(
		`{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}`))
}

// describer asks one version of reflection, all over one stream.
type describer struct {
	t      *testing.T
	stream grpc.ClientStream
	files  map[string]*descriptorpb.FileDescriptorProto
}

func describe(t *testing.T, conn *grpc.ClientConn, version string) *describer {
	t.Helper()
	method := fmt.Sprintf("/grpc.reflection.%s.ServerReflection/ServerReflectionInfo", version)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	stream, err := conn.NewStream(ctx, desc, method)
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	return &describer{t, stream, map[string]*descriptorpb.FileDescriptorProto{}}
}

// ask sends one question; both versions have the same messages.
func (d *describer) ask(question *reflectionapi.ServerReflectionRequest) (*reflectionapi.ServerReflectionResponse, error) {
	if err := d.stream.SendMsg(question); err != nil && err != io.EOF {
		return nil, err
	}
	answer := new(reflectionapi.ServerReflectionResponse)
	return answer, d.stream.RecvMsg(answer)
}

func (d *describer) services() []string {
	d.t.Helper()
	answer, err := d.ask(&reflectionapi.ServerReflectionRequest{
		MessageRequest: &reflectionapi.ServerReflectionRequest_ListServices{ListServices: "*"},
	})
	if err != nil {
		d.t.Fatalf("listing services: %v", err)
	}
	var names []string
	for _, service := range answer.GetListServicesResponse().GetService() {
		names = append(names, service.GetName())
	}
	sort.Strings(names)
	return names
}

// add takes the files of an answer, and asks for those that they import.
func (d *describer) add(what string, answer *reflectionapi.ServerReflectionResponse, err error) {
	d.t.Helper()
	if err != nil || answer.GetFileDescriptorResponse() == nil {
		d.t.Fatalf("%s: %v, %v", what, answer, err)
	}
	for _, encoded := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
		file := new(descriptorpb.FileDescriptorProto)
		if err := proto.Unmarshal(encoded, file); err != nil {
			d.t.Fatalf("%s: %v", what, err)
		}
		if d.files[file.GetName()] != nil {
			continue
		}
		d.files[file.GetName()] = file
		for _, name := range file.GetDependency() {
			if d.files[name] == nil {
				answer, err := d.ask(&reflectionapi.ServerReflectionRequest{
					MessageRequest: &reflectionapi.ServerReflectionRequest_FileByFilename{FileByFilename: name},
				})
				d.add(name, answer, err)
			}
		}
	}
}

func (d *describer) symbol(name string) (*reflectionapi.ServerReflectionResponse, error) {
	return d.ask(&reflectionapi.ServerReflectionRequest{
		MessageRequest: &reflectionapi.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: name},
	})
}

// all gives everything that was described, linked.
func (d *describer) all() *protoregistry.Files {
	d.t.Helper()
	set := new(descriptorpb.FileDescriptorSet)
	for _, file := range d.files {
		set.File = append(set.File, file)
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		d.t.Fatalf("linking what is described: %v", err)
	}
	return files
}

func TestReflection(t *testing.T) {
	for _, version := range []string{"v1", "v1alpha"} {
		t.Run(version, func(t *testing.T) {
			conn := dial(t)
			d := describe(t, conn, version)
			names := d.services()
			if got, want := strings.Join(names, " "), strings.Join(services(), " "); got != want {
				t.Errorf("served is %s\nwanted was %s", got, want)
			}
			for _, name := range names {
				answer, err := d.symbol(name)
				d.add(name, answer, err)
			}
			files := d.all()
			for _, name := range names {
				found, err := files.FindDescriptorByName(protoreflect.FullName(name))
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				service, ok := found.(protoreflect.ServiceDescriptor)
				if !ok || service.Methods().Len() == 0 {
					t.Errorf("%s is no service with methods", name)
				}
			}
			files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
				for at := 0; at < file.Services().Len(); at++ {
					name := string(file.Services().Get(at).FullName())
					if sort.SearchStrings(names, name) == len(names) || names[sort.SearchStrings(names, name)] != name {
						t.Errorf("%s is described and not served", name)
					}
				}
				return true
			})
			compare(t, files)
			for _, name := range []string{unserved, "containerd.services.sandbox.v1.StoreCreateRequest"} {
				answer, err := describe(t, conn, version).symbol(name)
				if answer.GetErrorResponse().GetErrorCode() != int32(codes.NotFound) && status.Code(err) != codes.NotFound {
					t.Errorf("%s: %v, %v", name, answer, err)
				}
			}
		})
	}
}

// compare checks every message that containerd's own client has as well: what it
// has in a field must be in ours under the same number, with the same type.
func compare(t *testing.T, files *protoregistry.Files) {
	const api = "github.com/containerd/containerd/api/"
	compared := 0
	for _, path := range []string{
		"events/content.proto", "events/image.proto", "events/namespace.proto", "events/snapshot.proto",
		"services/content/v1/content.proto", "services/diff/v1/diff.proto", "services/events/v1/events.proto",
		"services/images/v1/images.proto", "services/introspection/v1/introspection.proto",
		"services/leases/v1/leases.proto", "services/namespaces/v1/namespace.proto",
		"services/snapshots/v1/snapshots.proto", "services/version/v1/version.proto",
		"types/descriptor.proto", "types/mount.proto", "types/platform.proto",
	} {
		packed, err := gzip.NewReader(bytes.NewReader(gogo.FileDescriptor(api + path)))
		if err != nil {
			t.Fatalf("containerd's %s: %v", path, err)
		}
		encoded, err := io.ReadAll(packed)
		if err != nil {
			t.Fatal(err)
		}
		file := new(descriptorpb.FileDescriptorProto)
		if err := proto.Unmarshal(encoded, file); err != nil {
			t.Fatal(err)
		}
		for _, message := range file.GetMessageType() {
			name := protoreflect.FullName(file.GetPackage() + "." + message.GetName())
			found, err := files.FindDescriptorByName(name)
			if err != nil {
				continue // of a service that is not on this socket
			}
			compared++
			fields := found.(protoreflect.MessageDescriptor).Fields()
			for _, theirs := range message.GetField() {
				field := fields.ByNumber(protoreflect.FieldNumber(theirs.GetNumber()))
				if field == nil {
					t.Errorf("%s has no field %d (%s)", name, theirs.GetNumber(), theirs.GetName())
					continue
				}
				ours := protodesc.ToFieldDescriptorProto(field)
				if ours.GetName() != theirs.GetName() || ours.GetType() != theirs.GetType() ||
					ours.GetLabel() != theirs.GetLabel() || ours.GetTypeName() != theirs.GetTypeName() {
					t.Errorf("%s: containerd has %v, the server %v", name, theirs, ours)
				}
			}
		}
		for _, service := range file.GetService() {
			name := protoreflect.FullName(file.GetPackage() + "." + service.GetName())
			found, err := files.FindDescriptorByName(name)
			if err != nil {
				continue
			}
			methods := found.(protoreflect.ServiceDescriptor).Methods()
			for _, theirs := range service.GetMethod() {
				method := methods.ByName(protoreflect.Name(theirs.GetName()))
				if method == nil {
					t.Errorf("%s has no method %s", name, theirs.GetName())
					continue
				}
				ours := protodesc.ToMethodDescriptorProto(method)
				if ours.GetInputType() != theirs.GetInputType() || ours.GetOutputType() != theirs.GetOutputType() ||
					ours.GetClientStreaming() != theirs.GetClientStreaming() || ours.GetServerStreaming() != theirs.GetServerStreaming() {
					t.Errorf("%s: containerd has %v, the server %v", name, theirs, ours)
				}
			}
		}
	}
	if compared < 30 {
		t.Errorf("only %d messages were compared", compared)
	}
}
