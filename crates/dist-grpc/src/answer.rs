//! The frame that all requests share: what they can see, blocking work on it, and an answer.

use dist_core::Result;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::daemon::blocking;
use crate::translate::status;

/// Answers a request with blocking `work` on the `space` that it can see.
///
/// Both are given the message; the headers of the request choose the space.
pub(crate) async fn answer<Q, S, A>(
    request: Request<Q>,
    space: impl FnOnce(&MetadataMap, &Q) -> Result<S>,
    work: impl FnOnce(&S, Q) -> Result<A> + Send + 'static,
) -> Result<Response<A>, Status>
where
    Q: Send + 'static,
    S: Send + 'static,
    A: Send + 'static,
{
    let (metadata, _, message) = request.into_parts();
    let space = space(&metadata, &message).map_err(|error| status(&error))?;
    reply(blocking(move || work(&space, message)).await)
}

/// Answers with what has come out, or with how clients know its error.
pub(crate) fn reply<A>(result: Result<A>) -> Result<Response<A>, Status> {
    result.map(Response::new).map_err(|error| status(&error))
}
