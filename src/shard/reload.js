// Loads the page again when a module is deployed, and when a server that was gone is back. Served by cweb serve --dev only.
(function () {
    // The number of the last deployment before this script was sent: later ones are told when the stream begins.
    var lost = false, after = "@AFTER@";
    function listen() {
        var events = new EventSource("/cweb-dev/deployments?after=" + after);
        events.onmessage = function () { location.reload(); };
        events.onopen = function () { if (lost) location.reload(); };
        events.onerror = function () {
            lost = true;
            // The browser gives up where the answer is no stream.
            if (events.readyState === EventSource.CLOSED) setTimeout(listen, 1000);
        };
    }
    listen();
})();
