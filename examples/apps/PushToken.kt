// The calls of an app in Kotlin, without a library, for Android or a JVM.
// The calls block: make them on Dispatchers.IO.

import java.io.IOException
import java.net.HttpURLConnection
import java.net.URL
import java.net.URLEncoder

/** The session has ended: sign in again, then register again. */
class SignedOutException : IOException("signed out: sign in again, then register again")

/** Any other answer than 200. */
class RegistryException(val status: Int, body: String) : IOException("$status $body")

/** The registry, for one session. Every call returns the JSON text of the answer. */
class Registry(url: String, private val userId: String, private val authToken: String) {
    private val base = "$url/api/v1/"

    /**
     * Register at every start of the app; [type] is `apn` or `gcm`.
     *
     * [id] names the device, the same at each start: `Settings.Secure.ANDROID_ID`. When Google
     * changes the push token, the new one takes the place of the old one.
     */
    fun register(type: String, value: String, appName: String, id: String? = null): String {
        val fields = mutableMapOf("type" to type, "value" to value, "appName" to appName)
        if (id != null) fields["id"] = id
        return call("POST", "push.token", form(fields))
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
    fun logOut(): String = call("POST", "logout", "")

    private fun call(method: String, path: String, form: String? = null): String {
        for (triesLeft in TRIES - 1 downTo 0) {
            val connection = URL(base + path).openConnection() as HttpURLConnection
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
            val body = stream?.bufferedReader()?.use { it.readText() } ?: ""
            if (status == 200) return body
            if (status == 401) throw SignedOutException()
            if (status != 429 && status != 503 || triesLeft == 0) {
                throw RegistryException(status, body)
            }
            val wait = connection.getHeaderField("Retry-After")?.toLongOrNull() ?: 5
            // All phones got the same Retry-After: jitter keeps them from returning at once.
            Thread.sleep((minOf(wait, LONGEST_WAIT) * 1000 * (1 + Math.random() / 2)).toLong())
        }
        error("the last try returns or throws")
    }

    private fun form(fields: Map<String, String>): String =
        fields.entries.joinToString("&") { (name, value) ->
            "$name=" + URLEncoder.encode(value, "UTF-8")
        }

    private companion object {
        const val TRIES = 5
        const val TIMEOUT = 15_000 // milliseconds
        const val LONGEST_WAIT = 60L // seconds
    }
}
