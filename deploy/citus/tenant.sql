-- Has Citus place the schema of one tenant on one node, with all tables that are in it and will be,
-- and lets the tenant's roles connect to every node. Run it on the coordinator as a superuser, after
-- roles.sql has made schema and roles, connect.sql has let them connect, and `push-tokens migrate`
-- has made the tables: Citus refuses triggers on tables that it holds, and an early revision makes
-- some:
--
--     psql -X -v ON_ERROR_STOP=1 -v schema=tenant_a "$ADMIN_URL" -f deploy/citus/tenant.sql
--
-- Run again it changes nothing.

\set ON_ERROR_STOP on
SET client_min_messages = warning;

\ir connect.sql
SELECT citus_schema_distribute(quote_ident(:'schema')::regnamespace);
