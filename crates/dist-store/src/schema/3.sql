-- Version 3: what was read of documents is kept, so that a listing of images reads no documents.

-- One document may be named by several media types. `outline` is JSON, written by documents.rs.
CREATE TABLE documents (
    digest     TEXT    NOT NULL,
    media_type TEXT    NOT NULL,
    outline    TEXT    NOT NULL,
    UNIQUE (digest, media_type)
) STRICT;
