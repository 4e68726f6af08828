-- Has psql's variable `comments` be the statements that make the comments of the table that the
-- variable `table` names. gather.sql runs it.
SELECT coalesce(string_agg(statement, E'\n'), '') AS comments
FROM (
    SELECT format('COMMENT ON TABLE %I IS %L;', relname, obj_description(oid)) AS statement
    FROM pg_class WHERE oid = :'table'::regclass AND obj_description(oid) IS NOT NULL
    UNION ALL
    SELECT format(
        'COMMENT ON COLUMN %I.%I IS %L;', :'table', attname, col_description(attrelid, attnum)
    )
    FROM pg_attribute
    WHERE attrelid = :'table'::regclass AND col_description(attrelid, attnum) IS NOT NULL
) statements \gset
