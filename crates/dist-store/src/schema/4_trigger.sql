CREATE TRIGGER container_deleted AFTER DELETE ON containers
    BEGIN UPDATE deletions SET count = count + 1; END;
