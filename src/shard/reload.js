// Loads the page again after a deployment, and after a restart of the server. Only cweb serve --dev serves this script.
(function () {
    // The number of the last deployment before this script was sent: the stream begins with all later deployments.
    var lost = false, after = "@AFTER@";
    function listen() {
        var events = new EventSource("/cweb-dev/deployments?after=" + after);
        events.onmessage = function () { location.reload(); };
        events.onopen = function () { if (lost) location.reload(); };
        events.onerror = function () {
            lost = true;
            // A browser does not reconnect if the answer is not a stream.
            if (events.readyState === EventSource.CLOSED) setTimeout(listen, 1000);
        };
    }
    listen();
})();
