-- Has Citus place the schema of one tenant on one node, with all tables that are in it and will be.
-- Run it on the coordinator as a superuser, after roles.sql has made the schema and before the
-- tables are made:
--
--     psql -X -v ON_ERROR_STOP=1 -v schema=tenant_a "$ADMIN_URL" -f deploy/citus/tenant.sql
--
-- Run again it changes nothing.

\set ON_ERROR_STOP on
SET client_min_messages = warning;

SELECT citus_schema_distribute(quote_ident(:'schema')::regnamespace);
