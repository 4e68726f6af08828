// The calls of an app in Kotlin, without a library, for Android or a JVM: copy this file.
// `Device` is what an app needs; `Registry` makes the calls. They block: use Dispatchers.IO.

import java.io.File
import java.io.IOException
import java.net.HttpURLConnection
import java.net.URL
import java.net.URLEncoder
import java.text.ParseException
import java.text.SimpleDateFormat
import java.util.Locale
import java.util.UUID
import java.util.concurrent.atomic.AtomicInteger
import java.util.concurrent.locks.ReentrantLock
import kotlin.concurrent.withLock

private const val TRIES = 6
private const val TRIES_AT_SIGN_OUT = 2 // the user waits for it
private const val TIMEOUT = 15_000 // milliseconds
private const val LONGEST_WAIT = 60.0 // seconds

// Too many requests, and what a proxy or the registry says of this moment. Every call may be
// repeated.
private val LATER = setOf(429, 502, 503, 504)

/** The session has ended: sign in again, then register again. */
class SignedOutException : IOException("signed out: sign in again, then register again")

/** Any other answer than 200. */
class RegistryException(val status: Int, body: String) : IOException("$status $body")

/** A registration is not tried again: a later push token came, or the user signs out. */
class SupersededException : IOException("a later push token came, or the user signs out")

/**
 * The registry, for one session. Every call returns the JSON text of the answer.
 *
 * Where a later try can help, a call waits and tries again; an IOException: no try got an answer.
 */
class Registry(url: String, private val userId: String, private val authToken: String) {
    private val base = "$url/api/v1/"

    /**
     * Register at every start of the app; [type] is `apn` or `gcm`.
     *
     * [id] names the device, the same at each start: `Settings.Secure.ANDROID_ID`, or [deviceId].
     * When Google changes the push token, the new one takes the place of the old one. Where
     * [isWanted] says no, there is no further try.
     */
    fun register(
        type: String,
        value: String,
        appName: String,
        id: String? = null,
        isWanted: () -> Boolean = { true },
    ): String {
        val fields = mutableMapOf("type" to type, "value" to value, "appName" to appName)
        if (id != null) fields["id"] = id
        return call("POST", "push.token", form(fields), isWanted = isWanted)
    }

    /** The user's own registrations, the latest renewed first. */
    fun list(): String = call("GET", "push.token")

    /** Stop pushes to this push token; false when none of the user's was there. */
    fun remove(value: String): Boolean = try {
        // Not in the body: HttpURLConnection and some proxies have none for a DELETE.
        call("DELETE", "push.token?" + form(mapOf("token" to value)))
        true
    } catch (error: RegistryException) {
        if (error.status != 404) throw error
        false
    }

    /** End the session and its registrations. */
    fun logOut(): String = call("POST", "logout", "", TRIES_AT_SIGN_OUT)

    private fun call(
        method: String,
        path: String,
        form: String? = null,
        tries: Int = TRIES,
        isWanted: () -> Boolean = { true },
    ): String {
        for (tried in 1..tries) {
            var told: String? = null
            try {
                val connection = URL(base + path).openConnection() as HttpURLConnection
                val (status, body) = exchange(connection, method, form)
                if (status == 200) return body
                if (status == 401) throw SignedOutException()
                if (status !in LATER) throw RegistryException(status, body)
                if (tried == tries || !isWanted()) throw RegistryException(status, body)
                told = connection.getHeaderField("Retry-After")
            } catch (error: SignedOutException) {
                throw error
            } catch (error: RegistryException) {
                throw error
            } catch (error: IOException) { // no answer, or half of one
                if (tried == tries || !isWanted()) throw error
            }
            Thread.sleep((wait(told, tried) * 1000).toLong())
            if (!isWanted()) throw SupersededException()
        }
        error("the last try returns or throws")
    }

    private fun exchange(
        connection: HttpURLConnection,
        method: String,
        form: String?,
    ): Pair<Int, String> {
        connection.requestMethod = method
        connection.connectTimeout = TIMEOUT
        connection.readTimeout = TIMEOUT
        connection.setRequestProperty("X-User-Id", userId)
        connection.setRequestProperty("X-Auth-Token", authToken)
        if (form != null) {
            connection.doOutput = true // writes a form, which needs no JSON library
            connection.outputStream.use { it.write(form.toByteArray()) }
        }
        val status = connection.responseCode
        val stream = if (status < 400) connection.inputStream else connection.errorStream
        return status to (stream?.bufferedReader()?.use { it.readText() } ?: "")
    }

    private fun form(fields: Map<String, String>): String =
        fields.entries.joinToString("&") { (name, value) ->
            "$name=" + URLEncoder.encode(value, "UTF-8")
        }
}

/**
 * The seconds before the next try: as Retry-After says, else 1, 2, 4 and so on.
 *
 * Many phones get the same Retry-After: a random part keeps them from returning at once.
 */
fun wait(told: String?, tried: Int): Double {
    val seconds = told?.toDoubleOrNull() ?: secondsUntil(told) ?: (1 shl (tried - 1)).toDouble()
    return seconds.coerceIn(0.0, LONGEST_WAIT) * (1 + Math.random() / 2)
}

private fun secondsUntil(date: String?): Double? = try {
    val form = SimpleDateFormat("EEE, dd MMM yyyy HH:mm:ss zzz", Locale.US)
    date?.let { (form.parse(it)!!.time - System.currentTimeMillis()) / 1000.0 }
} catch (_: ParseException) {
    null
}

/** This app on this device, while one user is signed in. */
class Device(
    private val registry: Registry,
    private val appName: String,
    private val id: String,
) {
    private val turn = ReentrantLock()
    private val latest = AtomicInteger()

    @Volatile private var isSignedOut = false

    /**
     * Register at every start, and whenever a push token comes; from any thread.
     *
     * One registration is made at a time, so that an old push token never arrives after a new one.
     * Null: a later push token came meanwhile, or the user signed out.
     */
    fun register(type: String, value: String): String? {
        val mine = latest.incrementAndGet()
        val isWanted = { mine == latest.get() && !isSignedOut }
        return turn.withLock {
            try {
                if (isWanted()) registry.register(type, value, appName, id, isWanted) else null
            } catch (error: IOException) {
                if (isWanted()) throw error
                null
            }
        }
    }

    /**
     * Sign the user out: the registry first, as the session's auth token is still good.
     *
     * A registration that is under way needs no waiting for: the registry takes it with the
     * session, or refuses it. False: the registry could not be told. Then delete the push token on
     * the device (`FirebaseMessaging.deleteToken`), so that nothing reaches it any more.
     */
    fun signOut(signOutOfProvider: () -> Unit): Boolean {
        isSignedOut = true
        val isTold = try {
            registry.logOut()
            true
        } catch (_: SignedOutException) {
            true // it had ended, or the answer to the first try was lost
        } catch (_: IOException) {
            false
        }
        signOutOfProvider()
        return isTold
    }
}

/** The device's name from this file of the app, which is made at the first call. */
fun deviceId(file: File): String {
    if (file.length() == 0L) file.writeText(UUID.randomUUID().toString())
    return file.readText()
}
