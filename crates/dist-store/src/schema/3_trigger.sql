-- It goes with the blob. One that stays nevertheless says nothing wrong: whether a blob is there is
-- what its own row says.
CREATE TRIGGER document_deleted AFTER DELETE ON content
    BEGIN DELETE FROM documents WHERE digest = OLD.digest
        AND NOT EXISTS (SELECT 1 FROM content WHERE digest = OLD.digest); END;
