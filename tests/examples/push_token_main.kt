// Runs examples/apps/PushToken.kt from a command line: its calls as the other examples run
// themselves, and the scenarios of tests/examples/test_devices.py.

import java.io.File
import java.lang.Thread.State.WAITING
import java.net.URL
import java.util.concurrent.ConcurrentHashMap
import kotlin.concurrent.thread

private val url = System.getenv("REGISTRY_URL")
private val registry = Registry(url, System.getenv("USER_ID"), System.getenv("AUTH_TOKEN"))

fun main(args: Array<String>) {
    // Java repeats a POST whose connection was lost by itself, once: the tests count the tries.
    System.setProperty("sun.net.http.retryPost", "false")
    val values = args.drop(1)
    try {
        println(
            when (args[0]) {
                "register" ->
                    if (args.size == 2) scenario(args[0], values)
                    else registry.register(args[1], args[2], args[3], args.getOrNull(4))
                "list" -> registry.list()
                "remove" -> registry.remove(args[1]).toString()
                "log_out" -> registry.logOut()
                "device-id" -> List(2) { "\"${deviceId(File(args[1]))}\"" }
                else -> scenario(args[0], values)
            }
        )
    } catch (error: SignedOutException) {
        System.err.println(error.message)
        kotlin.system.exitProcess(4)
    }
}

/** Ask the relay that stands before the registry; return the number that it answers. */
private fun ask(path: String): Int = URL(url + path).readText().toInt()

private fun scenario(name: String, values: List<String>): String {
    val device = Device(registry, "chat.example", "device-1")
    val answers = ConcurrentHashMap<String, Boolean>()
    val threads = mutableListOf<Thread>()
    for (value in values) {
        threads += thread { answers[value] = device.register("gcm", value) != null }
        while (name != "register" && ask("/seen") < 1) Thread.sleep(20)
        while (name == "rotate" && threads.size > 1 && threads.last().state != WAITING) {
            Thread.sleep(20)
        }
    }
    if (name == "rotate") ask("/release")
    if (name == "sign-out") answers["told"] = device.signOut { ask("/provider") }
    threads.forEach { it.join() }
    return answers.entries.joinToString(",", "{", "}") { "\"${it.key}\":${it.value}" }
}
