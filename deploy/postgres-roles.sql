-- Who may do what with the store on PostgreSQL. Run it as a superuser in the store's database, before the first
-- `actorjobs db upgrade` and after each: it may be run again at any time. The roles have no passwords yet: \password.
--
--   jobs_owner    owns the tables: `actorjobs db upgrade`, and nothing else
--   jobs_worker   workers, and operators on the command line: every row of every table
--   jobs_client   web processes: dispatch, read, cancel, retry, replay, delete runs; no worker's rows,
--                 and no pausing of queues
--   jobs_reader   dashboards: reads
DO $$
DECLARE
  role text;
BEGIN
  FOREACH role IN ARRAY ARRAY['jobs_owner', 'jobs_worker', 'jobs_client', 'jobs_reader'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
      EXECUTE format('CREATE ROLE %I LOGIN', role);
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role);
  END LOOP;
END $$;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO jobs_worker, jobs_client, jobs_reader;
GRANT USAGE, CREATE ON SCHEMA public TO jobs_owner;

-- Tables that a later upgrade makes: workers go on, while this file is not yet run again.
ALTER DEFAULT PRIVILEGES FOR ROLE jobs_owner IN SCHEMA public
  GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO jobs_worker;
ALTER DEFAULT PRIVILEGES FOR ROLE jobs_owner IN SCHEMA public
  GRANT USAGE ON SEQUENCES TO jobs_worker, jobs_client;
ALTER DEFAULT PRIVILEGES FOR ROLE jobs_owner IN SCHEMA public
  GRANT SELECT ON TABLES TO jobs_client, jobs_reader;

-- Only the store's own tables: the application's may be in the same database, where `tx=` wants them.
DO $$
DECLARE
  own text;
BEGIN
  FOR own IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename LIKE 'actorjobs\_%' LOOP
    EXECUTE format('ALTER TABLE public.%I OWNER TO jobs_owner', own);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON public.%I TO jobs_worker', own);
    EXECUTE format('GRANT SELECT ON public.%I TO jobs_client, jobs_reader', own);
  END LOOP;
  FOR own IN SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' AND sequencename LIKE 'actorjobs\_%' LOOP
    EXECUTE format('GRANT USAGE ON SEQUENCE public.%I TO jobs_worker, jobs_client', own);
  END LOOP;
  IF to_regclass('public.actorjobs_runs') IS NOT NULL THEN
    GRANT INSERT, UPDATE, DELETE ON public.actorjobs_runs TO jobs_client;
    GRANT INSERT, DELETE ON public.actorjobs_events TO jobs_client;
    GRANT DELETE ON public.actorjobs_attempts TO jobs_client;
    GRANT INSERT ON public.actorjobs_stores, public.actorjobs_queues TO jobs_client;
  END IF;
END $$;
