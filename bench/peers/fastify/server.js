// A registration by hand: Fastify and node-postgres, one prepared statement a request.
// Environment: DATABASE_URL, PORT, POOL (connections to PostgreSQL a process), STATEMENT (file).

import cluster from 'node:cluster'
import { createHash, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'

import Fastify from 'fastify'
import pg from 'pg'

const PROCESSES = 2
const SIGNED_OUT = { status: 'error', message: 'You must be logged in to do this.' }
const REQUIRED = 'body param is missing or invalid.'
const INVALID = {
  id: ['error-id-param-not-valid', 'The required "id" body param is invalid.'],
  type: ['error-type-param-not-valid', `The required "type" ${REQUIRED}`],
  value: ['error-token-param-not-valid', `The required "value" ${REQUIRED}`],
  appName: ['error-appName-param-not-valid', `The required "appName" ${REQUIRED}`],
}
const string = { type: 'string' }
// With the answer's schema Fastify compiles a serializer, which is faster than JSON.stringify.
const ANSWER = {
  type: 'object',
  properties: {
    result: {
      type: 'object',
      properties: {
        token: { type: 'object', properties: { gcm: string, apn: string } },
        appName: string,
        userId: string,
        enabled: { type: 'boolean' },
        createdAt: string,
        updatedAt: string,
        _id: string,
      },
    },
    success: { type: 'boolean' },
  },
}

const fits = (text, most) =>
  typeof text === 'string' && text !== '' && Buffer.byteLength(text) <= most

// The name of the first field that cannot be used.
function invalid(body) {
  if (body.id && !fits(body.id, 64)) return 'id'
  if (body.type !== 'apn' && body.type !== 'gcm') return 'type'
  if (!fits(body.value, 2048)) return 'value'
  if (!fits(body.appName, 255)) return 'appName'
}

function serve() {
  const app = Fastify()
  const statement = readFileSync(process.env.STATEMENT, 'utf8')
  const pool = new pg.Pool({
    connectionString: process.env.DATABASE_URL,
    max: Number(process.env.POOL),
    idleTimeoutMillis: 0,
  })
  const schema = { response: { 200: ANSWER } }

  app.post('/api/v1/push.token', { schema }, async (request, reply) => {
    const authToken = request.headers['x-auth-token']
    const user = request.headers['x-user-id']
    if (!authToken || !user) return reply.code(401).send(SIGNED_OUT)
    const body = request.body ?? {}
    const field = invalid(body)
    if (field) {
      const [errorType, message] = INVALID[field]
      const error = `${message} [${errorType}]`
      return reply.code(400).send({ success: false, error, errorType })
    }
    const hash = createHash('sha256').update(authToken).digest()
    const id = randomBytes(9).toString('hex').slice(0, 17)
    const values = [hash, user, id, body.appName, body.value, body.type]
    const { rows } = await pool.query({ name: 'register', text: statement, values })
    if (!rows.length) return reply.code(401).send(SIGNED_OUT)
    const result = {
      token: { [body.type]: body.value },
      appName: body.appName,
      userId: user,
      enabled: true,
      createdAt: rows[0].created_at.toISOString(),
      updatedAt: rows[0].updated_at.toISOString(),
      _id: rows[0].id,
    }
    return { result, success: true }
  })
  app.listen({ port: Number(process.env.PORT), host: '127.0.0.1' })
}

if (cluster.isPrimary) {
  for (let number = 0; number < PROCESSES; number++) cluster.fork()
} else {
  serve()
}
