// The calls of an app in Swift, with Foundation alone: iOS 15 or macOS 12 and later.

import Foundation

enum RegistryError: Error {
    /// The session has ended: sign in again, then register again.
    case signedOut
    /// Any other answer than 200.
    case refused(status: Int, body: String)
}

struct Registration: Decodable {
    let _id: String
    let appName: String
    let userId: String
}

/// The registry, for one session.
struct Registry {
    /// Up to the host and port, such as https://push.example.org
    let url: URL
    let userId: String
    let authToken: String

    /// Register at every start of the app, in `didRegisterForRemoteNotificationsWithDeviceToken`.
    ///
    /// `id` names the device, the same at each start: a UUID that the app keeps in the keychain.
    /// When Apple changes the push token, the new one takes the place of the old one.
    func register(
        deviceToken: Data, appName: String, id: String? = nil
    ) async throws -> Registration {
        struct Answer: Decodable { let result: Registration }
        var fields = ["type": "apn", "value": hex(deviceToken), "appName": appName]
        fields["id"] = id  // nil leaves it out
        let data = try await call("POST", "push.token", body: JSONEncoder().encode(fields))
        return try JSONDecoder().decode(Answer.self, from: data).result
    }

    /// The user's own registrations, the latest renewed first.
    func list() async throws -> [Registration] {
        struct Answer: Decodable { let tokens: [Registration] }
        let data = try await call("GET", "push.token")
        return try JSONDecoder().decode(Answer.self, from: data).tokens
    }

    /// Stop pushes to this push token; false when none of the user's was there.
    func remove(deviceToken: Data) async throws -> Bool {
        let query = [URLQueryItem(name: "token", value: hex(deviceToken))]
        do {
            // Not in the body: some proxies strip the body of a DELETE.
            _ = try await call("DELETE", "push.token", query: query)
        } catch RegistryError.refused(status: 404, body: _) {
            return false
        }
        return true
    }

    /// End the session and its registrations.
    func logOut() async throws {
        _ = try await call("POST", "logout")
    }

    private func hex(_ data: Data) -> String {
        data.map { String(format: "%02x", $0) }.joined()
    }

    private func call(
        _ method: String, _ path: String, query: [URLQueryItem] = [], body: Data? = nil
    ) async throws -> Data {
        var parts = URLComponents(
            url: url.appendingPathComponent("api/v1/\(path)"), resolvingAgainstBaseURL: false)!
        if !query.isEmpty { parts.queryItems = query }
        var request = URLRequest(url: parts.url!, timeoutInterval: 15)
        request.httpMethod = method
        request.httpBody = body
        request.setValue(userId, forHTTPHeaderField: "X-User-Id")
        request.setValue(authToken, forHTTPHeaderField: "X-Auth-Token")
        request.setValue("application/json", forHTTPHeaderField: "Content-Type")

        var triesLeft = 4
        while true {
            let (data, response) = try await URLSession.shared.data(for: request)
            let answer = response as! HTTPURLResponse  // always one, for http and https
            switch answer.statusCode {
            case 200:
                return data
            case 401:
                throw RegistryError.signedOut
            case 429 where triesLeft > 0, 503 where triesLeft > 0:
                triesLeft -= 1
                let told = Double(answer.value(forHTTPHeaderField: "Retry-After") ?? "") ?? 5
                // All phones got the same Retry-After: jitter keeps them from returning at once.
                let seconds = min(told, 60) * Double.random(in: 1...1.5)
                try await Task.sleep(nanoseconds: UInt64(seconds * 1_000_000_000))
            default:
                let text = String(decoding: data, as: UTF8.self)
                throw RegistryError.refused(status: answer.statusCode, body: text)
            }
        }
    }
}
