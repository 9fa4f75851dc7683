//! Health, as those see it who watch over the daemon.

use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::support::{Served, request};

fn of(service: &str) -> tonic::Request<HealthCheckRequest> {
    request(HealthCheckRequest { service: service.into() })
}

fn said(answer: Option<HealthCheckResponse>) -> Option<ServingStatus> {
    answer.map(|answer| answer.status())
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_watch_hear_of_the_stop_and_do_not_delay_it() {
    let served = Served::new("native");
    let mut all = Vec::new();
    for (channel, backend) in [(served.channel(), false), (served.backend(), true)] {
        let mut client = HealthClient::new(channel);
        let images = "containerd.services.images.v1.Images";
        for (name, there) in [
            ("", true),
            ("containerd.services.content.v1.Content", true),
            (images, !backend),
            ("containerd.services.none.v1.None", false),
        ] {
            let mut watch = client.watch(of(name)).await.unwrap().into_inner();
            let first = said(watch.message().await.unwrap());
            let check = client.check(of(name)).await;
            if there {
                assert_eq!(first, Some(ServingStatus::Serving), "{name}");
                assert_eq!(check.unwrap().into_inner().status(), ServingStatus::Serving);
            } else {
                assert_eq!(first, Some(ServingStatus::ServiceUnknown), "{name}");
                assert_eq!(check.unwrap_err().code(), Code::NotFound, "{name}");
            }
            all.push((watch, there));
        }
    }
    let stopped = tokio::spawn(served.stop());
    for (mut watch, there) in all {
        if there {
            assert_eq!(said(watch.message().await.unwrap()), Some(ServingStatus::NotServing));
        }
        // Not `Unavailable`, which is for what still runs when patience ends.
        assert_eq!(said(watch.message().await.unwrap()), None);
    }
    stopped.await.unwrap();
}
